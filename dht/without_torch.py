"""hivemind without PyTorch, for a process that runs its DHT and its libp2p client and nothing else.

`import hivemind` runs hivemind/__init__.py, which imports averager, experts and optimizer, and with them
torch: hundreds of megabytes of memory, and of an image, for a node that averages nothing. hivemind.utils
imports torch for tensors and futures, hivemind.dht for its forked DHT. DHTNode and P2P use none of that.

So these three packages stand in sys.modules as the import system finds them, with their own search path, but
their __init__.py is not run. Submodules are imported from there as always, and the names that these take
from hivemind.utils itself are put there. No file of hivemind is changed. What else it has can't be imported
in such a process.

A hivemind that asks for more fails while the process starts: with ImportError, or AttributeError, that names
it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec

_NOT_RUN = ("hivemind", "hivemind.dht", "hivemind.utils")
_OF_UTILS = {
    "MSGPackSerializer": "serializer",
    "SerializerBase": "serializer",
    "get_dht_time": "timed_storage",
    "get_logger": "logging",
}


def load_hivemind() -> None:
    """Makes hivemind.dht.node and hivemind.p2p importable without torch. To be called before anything
    imports hivemind; where that has happened, hivemind is there as a whole, and nothing is done.

    Raises ImportError or AttributeError.
    """
    if "hivemind" in sys.modules:
        return
    for name in _NOT_RUN:
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        package = sys.modules[name] = module_from_spec(spec)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)
    utils = sys.modules["hivemind.utils"]
    for name, home in _OF_UTILS.items():
        setattr(utils, name, getattr(import_module(f"hivemind.utils.{home}"), name))
