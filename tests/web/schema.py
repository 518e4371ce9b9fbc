"""What the API says of itself, held against an answer."""

import copy
from typing import Any

import jsonschema_rs

from atoll.web_ui.openapi import schemas


def closed(shapes: dict[str, Any]) -> dict[str, Any]:
    """The schemas, such that a field which is not described is an error. An event has more by its kind."""
    shapes = copy.deepcopy(shapes)
    for name, shape in shapes.items():
        if name != "Event":
            shape["additionalProperties"] = False
    return shapes


def problems(value: Any, name: str) -> list[str]:
    """Where a value differs from the schema of this name."""
    root = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": closed(schemas())}}
    validator = jsonschema_rs.Draft202012Validator(root)
    return [f"{'/'.join(map(str, e.instance_path))}: {e.message[:200]}" for e in validator.iter_errors(value)]
