"""The API's types for the page's modules, from those of the interface: `python -m atoll.web_ui.typescript`.

Writes api.d.ts beside this file; the type checker of the page reads it, no browser does. A test compares.
"""

import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from atoll.web_ui.openapi import MODULES

TARGET = Path(__file__).with_name("api.d.ts")
_PLAIN = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def declarations() -> str:
    """All TypedDicts of the interface as TypeScript interfaces."""
    every = {name: each for module in MODULES for name, each in vars(module).items()}
    found = [value for value in every.values() if is_typeddict(value)]
    lines = [
        "// Made from the interface by `python -m atoll.web_ui.typescript`; a test compares.",
        "",
    ]
    for each in found:
        lines.append(f"export interface {each.__name__} {{")
        optional = each.__optional_keys__
        lines += [
            f"  {name}{'?' if name in optional else ''}: {_type(hint)};"
            for name, hint in get_type_hints(each).items()
        ]
        lines += ["}", ""]
    return "\n".join(lines)


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if is_typeddict(hint):
        return str(hint.__name__)
    if origin is list:
        return f"Array<{_type(arguments[0])}>"
    if origin is dict:
        return f"Record<string, {_type(arguments[1])}>"
    if origin is types.UnionType:
        return " | ".join(_type(each) for each in arguments)
    raise TypeError(f"no TypeScript for {hint!r}")


if __name__ == "__main__":
    TARGET.write_text(declarations())
