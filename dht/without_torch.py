"""hivemind without PyTorch, for a process that runs its DHT and its libp2p client and nothing else of it.

`import hivemind` runs hivemind/__init__.py, which imports averager, experts and optimizer, and with them
torch, scipy, pydantic and gRPC: hundreds of megabytes of memory, and of an image, and seconds of each start.
hivemind.utils imports torch for tensors and futures, hivemind.dht for its forked DHT. DHTNode and P2P use
none of that.

So these three packages are found as always, with their own search path, but their __init__.py is not run.
Submodules are imported from there as always, and the names that these take from hivemind.utils itself are put
there. No file of hivemind is changed. What else it has can't be imported in such a process.

A hivemind that asks for more fails where it is first imported: with ImportError, or AttributeError, that
names it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_NOT_RUN = ("hivemind", "hivemind.dht", "hivemind.utils")
_OF_UTILS = {
    "MSGPackSerializer": "serializer",
    "SerializerBase": "serializer",
    "get_dht_time": "timed_storage",
    "get_logger": "logging",
}


class _Bare(Loader):
    """Loads a package without its __init__.py."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "hivemind.utils":
            for name, home in _OF_UTILS.items():
                setattr(module, name, getattr(import_module(f"hivemind.utils.{home}"), name))


class _Finder(MetaPathFinder):
    """Finds the packages that are not run where they would be found without it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _NOT_RUN:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Bare()
        return spec


def lighten_hivemind() -> None:
    """From now on `import hivemind` gives the light one. Imports nothing itself.

    To be called before anything imports hivemind; where that has happened, hivemind is there as a whole, and
    nothing is done.
    """
    if "hivemind" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
