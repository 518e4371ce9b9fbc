"""One target under libFuzzer, guided by coverage of our own code: `python -m tests.fuzz.guided TARGET`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["atoll"]):
    from .targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[1], *sys.argv[2:]], TARGETS[sys.argv[1]][0])
    atheris.Fuzz()
