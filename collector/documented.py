"""Bodies in the OpenAPI document. They are read by hand, for limits while they stream, so the framework does not know of them."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel

Json = dict[str, Any]  # Any: JSON Schema


def body_of(model: type[BaseModel | msgspec.Struct], *, required: bool = True) -> Json:
    """Return what a route's `openapi_extra` says of its body: the schema of `model`, with its parts written where they are used."""
    schema = model.model_json_schema(by_alias=True) if issubclass(model, BaseModel) else msgspec.json.schema(model)
    parts = schema.pop("$defs", {})
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": _written_out(schema, parts)}}}}


def _written_out(value: Any, parts: Json) -> Any:  # Any: JSON
    if isinstance(value, dict):
        name = str(value.get("$ref", "")).removeprefix("#/$defs/")
        if name in parts:
            return _written_out(parts[name], parts)
        return {key: _pattern(item) if key == "pattern" else _written_out(item, parts) for key, item in value.items()}
    return [_written_out(item, parts) for item in value] if isinstance(value, list) else value


def _pattern(value: Any) -> Any:  # Any: as above
    """Return an expression as JSON Schema writes it; Python's `$` would let a newline follow, so ours are written otherwise."""
    return value.replace("\\A", "^").replace("\\Z", "$") if isinstance(value, str) else _written_out(value, {})
