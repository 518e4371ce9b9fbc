"""The API described for machines: OpenAPI 3.1, made from the types of `interface.py` and the real routes.

Nothing is written twice. The shapes are read from the types, their descriptions from the sentences under the
fields, the paths from the application that answers; only what a path takes and gives is told here, in
`OPERATIONS`. A path that is missing there is described all the same, as one that answers JSON. Nothing can
fail: where the source of the interface is not at hand, the shapes have no descriptions.
"""

import ast
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from atoll.web_ui import interface, owner_types, round_types, state_types

VERSION = "1"
"""Of the API, as in its paths; fields may be added to answers at any time."""
_JSON, _HTML, _TEXT, _STREAM = "application/json", "text/html", "text/plain", "text/event-stream"
_SIMPLE: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
}
_ERROR = {
    "description": "A refusal: a code for machines, a sentence and a fix for people.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "fix"],
            "properties": {name: {"type": "string"} for name in ("code", "message", "fix")},
        }
    },
}
_SECONDS = {"type": "number", "minimum": 0, "maximum": 253_402_300_800}


@dataclass(frozen=True)
class Parameter:
    """What a request may say outside its body. `place`: query, path or header."""

    name: str
    place: str
    schema: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class Operation:
    """What one path takes and gives. `answer`: a TypedDict, a schema, or None where it is not JSON."""

    text: str
    answer: Any = None
    media: str = _JSON
    parameters: tuple[Parameter, ...] = ()
    body: Mapping[str, Any] | None = None
    open: bool = False
    """Whether it answers without a token or a session."""
    also: Mapping[int, str] | None = None
    """Further statuses that are answers and not refusals, with what they mean."""


_SINCE = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_NAMES = {"type": "object", "required": ["names"], "properties": {"names": {"type": "array"}}}
_READY = {"type": "object", "required": ["ready", "reason"], "properties": {"ready": {"type": "boolean"}}}
_UNCHANGED = {304: "The file has not changed (If-None-Match)."}

_TEXT_SETTING = {"type": "string", "maxLength": 1000}
_AMOUNT = {"type": ["number", "string"], "minimum": 0}
_YES_OR_NO = {"type": ["boolean", "string"]}
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("up", "down", "memory", "device", "train_hours", "network_hours"), _TEXT_SETTING),
    **dict.fromkeys(
        ("threads", "connections", "gb_per_week", "state_rate", "data_cap", "pause_on_load"), _AMOUNT
    ),
    **dict.fromkeys(("pause_on_battery", "pause_on_gpu"), _YES_OR_NO),
}
MODULES = (interface, round_types, state_types, owner_types)
"""Whose TypedDicts are the schema of all answers."""
_COMMAND: Mapping[str, Any] = {
    "anyOf": [
        {
            "title": "pause",
            "description": "`for_s`: seconds; where it is left out, until it is resumed.",
            "type": "object",
            "properties": {"for_s": {"type": "number", "exclusiveMinimum": 0, "maximum": 30 * 86_400}},
        },
        {
            "title": "sample",
            "description": "`prompt`: how it begins, at most 2000 bytes; `temperature`: 0.8 by default.",
            "type": "object",
            "properties": {
                "prompt": {"type": "string", "maxLength": 2000},
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            },
        },
        {
            "title": "set",
            "description": "Settings by name, as in config.toml or in words; the state says what they mean.",
            "type": "object",
            "properties": _SETTINGS,
        },
        {
            "title": "approve, revoke, ban",
            "description": "`node`: peer id or the two words of its name; `label` for one that is approved, "
            "`reason` for one that is cut off. Where the organiser's key, or an admin's role, is.",
            "type": "object",
            "required": ["node"],
            "properties": {
                "node": {"type": "string", "maxLength": 2000},
                "label": {"type": "string", "maxLength": 64},
                "reason": {"type": "string", "maxLength": 100},
            },
        },
        {"title": "resume, finish, leave, doctor", "description": "Nothing.", "type": "object"},
    ]
}

OPERATIONS: Mapping[str, Operation] = {
    "/": Operation("The page.", media=_HTML, also=_UNCHANGED),
    "/static/{path}": Operation(
        "A file of the page.",
        media="*/*",
        parameters=(Parameter("path", "path", {"type": "string"}, "As the page names it."),),
        also=_UNCHANGED,
    ),
    "/login": Operation(
        "Redeems a one-time link and sets the session cookie.",
        media=_HTML,
        parameters=(Parameter("key", "query", {"type": "string"}, "Of the link."),),
        open=True,
    ),
    "/api/v1/state": Operation("The snapshot of this moment.", state_types.State),
    "/api/v1/events": Operation(
        "Events as they come, as server-sent events; each datum is an Event. One named `reset` says that "
        "some were lost, a `change` (if asked for) leads from one number of the snapshot to the next, and "
        "`resync` asks to fetch the state.",
        media=_STREAM,
        parameters=(
            Parameter("since", "query", _SINCE, "Last sequence seen; without it only new events come."),
            Parameter("Last-Event-ID", "header", _SINCE, "The same, as browsers say it; it wins."),
            Parameter("changes", "query", {"enum": ["1"]}, "What changes in the snapshot is wanted, too."),
        ),
    ),
    "/api/v1/log": Operation(
        "The kept events at once.",
        interface.Events,
        parameters=(Parameter("after", "query", _SINCE, "Last sequence seen; 0 where it is left out."),),
    ),
    "/api/v1/rounds": Operation(
        "What changed in the reports of rounds.",
        round_types.Rounds,
        parameters=(
            Parameter("after", "query", _SINCE, "The newest revision seen; 0 where it is left out."),
            Parameter("limit", "query", _SINCE, "Reports at most."),
        ),
    ),
    "/api/v1/history": Operation(
        "One figure over time; without a name, which figures there are.",
        {"anyOf": [interface.History, _NAMES]},
        parameters=(
            Parameter("name", "query", {"type": "string"}, "Of the figure."),
            Parameter("since", "query", _SECONDS, "Unix seconds; a day ago if it is left out."),
            Parameter("until", "query", _SECONDS, "Unix seconds; now if it is left out."),
            Parameter("points", "query", {"type": "integer", "minimum": 1, "maximum": 2000}, "At most."),
        ),
    ),
    "/api/v1/commands/{name}": Operation(
        "Carries out a command: pause (`for_s`), resume, finish, leave, doctor, sample (`prompt`, "
        "`temperature`), set (settings by name), and in a private swarm approve, revoke and ban (`node`).",
        {"type": "object"},
        parameters=(
            Parameter("name", "path", {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,39}$"}, "Which one."),
        ),
        body=_COMMAND,
    ),
    "/api/v1/login-link": Operation(
        "A fresh one-time link for a browser; only for the holder of the token.",
        {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}},
    ),
    "/api/v1/openapi.json": Operation("This description.", {"type": "object"}),
    "/healthz": Operation(
        "The event loop answers.",
        {"type": "object", "required": ["ok"], "properties": {"ok": {"const": True}}},
        open=True,
    ),
    "/readyz": Operation(
        "Whether the node has joined and averages, and the reason code.",
        _READY,
        open=True,
        also={503: "It has not, or does not."},
    ),
    "/metrics": Operation("Prometheus text, format 0.0.4.", media=_TEXT),
}


def document(paths: Iterable[tuple[str, Iterable[str]]]) -> dict[str, Any]:
    """The description of these paths, each with its methods. HEAD goes without saying where there is GET."""
    described = {}
    for path, methods in paths:
        operation = OPERATIONS.get(path, Operation("Not described yet.", {}))
        wanted = sorted(method.lower() for method in methods if method != "HEAD")
        described[path] = {method: _operation(method, path, operation) for method in wanted}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Atoll node",
            "version": VERSION,
            "description": "What one node tells of itself. A number that is not finite is null.",
        },
        "paths": described,
        "components": {
            "schemas": {**schemas(), "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(method: str, path: str, operation: Operation) -> dict[str, Any]:
    name = "-".join(part.strip("{}") for part in path.split("/") if part) or "page"
    answers: dict[str, Any] = {"200": _answer(operation, operation.text)}
    for status, meaning in (operation.also or {}).items():
        # What has not changed has no body.
        answers[str(status)] = {"description": meaning} if status == 304 else _answer(operation, meaning)
    refusal: dict[str, Any] = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    if operation.media == _HTML:
        refusal[_HTML] = {}  # a person in front of a browser gets a page with the same words
    answers["default"] = {"description": "A refusal.", "content": refusal}
    described: dict[str, Any] = {
        "operationId": f"{method}-{name}",
        "summary": operation.text,
        "parameters": [
            {
                "name": p.name,
                "in": p.place,
                "required": p.place == "path",
                "description": p.text,
                "schema": dict(p.schema),
            }
            for p in operation.parameters
        ],
        "responses": answers,
    }
    if operation.body is not None:
        described["requestBody"] = {"content": {_JSON: {"schema": dict(operation.body)}}}
    if operation.open:
        described["security"] = []
    return described


def _answer(operation: Operation, meaning: str) -> dict[str, Any]:
    content = {operation.media: {"schema": _schema(operation.answer)} if operation.media == _JSON else {}}
    return {"description": meaning, "content": content}


# ---- types as schemas


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema for each TypedDict of the interface, by its name."""
    told = _descriptions()
    every = {name: each for module in MODULES for name, each in vars(module).items()}
    shapes = [value for value in every.values() if typing.is_typeddict(value)]
    return {shape.__name__: _shape(shape, told.get(shape.__name__, {})) for shape in shapes}


def _shape(shape: Any, told: Mapping[str, str]) -> dict[str, Any]:
    properties = {}
    for name, hint in typing.get_type_hints(shape).items():
        schema = _schema(hint)
        properties[name] = {**schema, "description": told[name]} if name in told else schema
    return {
        "description": inspect.cleandoc(shape.__doc__ or ""),
        "type": "object",
        "required": sorted(shape.__required_keys__),
        "properties": properties,
    }


def _schema(hint: Any) -> dict[str, Any]:
    """The schema of one type. A mapping is a schema already, in which types may still stand."""
    if isinstance(hint, Mapping):
        return {key: [_schema(each) for each in x] if key == "anyOf" else x for key, x in hint.items()}
    if typing.is_typeddict(hint):
        return {"$ref": f"#/components/schemas/{hint.__name__}"}
    if hint in _SIMPLE:
        return dict(_SIMPLE[hint])
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        return _schema(inside[0])
    if origin is typing.Literal:
        return {"enum": list(inside)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(each) for each in inside]}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(inside[1])}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return {"type": "array", "items": _schema(inside[0])}
    return {}  # Any, and what JSON has no word for


def _descriptions() -> dict[str, dict[str, str]]:
    """The sentences under the fields, by TypedDict and field."""
    try:
        trees = [ast.parse(inspect.getsource(module)) for module in MODULES]
    except OSError:
        return {}
    found: dict[str, dict[str, str]] = {}
    for shape in (node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)):
        told = found.setdefault(shape.name, {})
        for field, after in zip(shape.body, shape.body[1:], strict=False):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    told[name] = inspect.cleandoc(text)
    return found
