"""Values of the interface's types: empty ones, and whatever came from elsewhere made to fit.

A page trusts the form of what it gets, not the content. `fit` gives it the form, whatever a file or another
release had written: what has the wrong type is taken as empty, what is missing is filled in, what nobody
knows is left out, and lists and texts are cut to a bound. Pure; nothing here can fail.
"""

import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

MAX_ITEMS = 4096
MAX_TEXT = 4000
MAX_NUMBER = 2**53
"""Greater ones lose digits in a browser."""


def finite(value: Any) -> float | None:
    """A number as a finite float; None for anything else, and for what no float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@cache
def fields(shape: Any) -> dict[str, Any]:
    """The types of a TypedDict's fields, in their order."""
    return typing.get_type_hints(shape)


def empty(hint: Any) -> Any:
    """A value of this type that says nothing; fields that need not be there are not."""
    if typing.is_typeddict(hint):
        return {name: empty(kind) for name, kind in fields(hint).items() if name in hint.__required_keys__}
    kind, inside = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return None if types.NoneType in inside else empty(inside[0])
    if kind is typing.Literal:
        return inside[0]
    return kind() if kind in (str, int, float, bool, list, dict) else None


def fit(value: Any, hint: Any) -> Any:
    """`value` with the form of this type."""
    if typing.is_typeddict(hint):
        return _record(value, hint)
    kind, inside = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        found = [each for each in inside if each is not types.NoneType and _is(value, each)]
        return fit(value, found[0]) if found else empty(hint)
    if not _is(value, hint):
        return empty(hint)
    if kind is list:
        return [fit(each, inside[0]) for each in value[:MAX_ITEMS] if _is(each, inside[0])]
    if kind is dict:
        return {str(key)[:MAX_TEXT]: fit(each, inside[1]) for key, each in list(value.items())[:MAX_ITEMS]}
    return value[:MAX_TEXT] if kind is str else value


def _record(value: Any, shape: Any) -> dict[str, Any]:
    given = value if isinstance(value, Mapping) else {}
    needed = shape.__required_keys__
    return {
        name: fit(given[name], kind) if name in given else empty(kind)
        for name, kind in fields(shape).items()
        if name in given or name in needed
    }


def _is(value: Any, hint: Any) -> bool:
    """Whether a value may be of this type, seen from outside."""
    kind = dict if typing.is_typeddict(hint) else typing.get_origin(hint) or hint
    if kind in (int, float):
        number = finite(value)
        return number is not None and abs(number) < MAX_NUMBER and (kind is float or isinstance(value, int))
    return isinstance(kind, type) and isinstance(value, kind)
