"""As much of JSON Schema as the documents of this project use."""

from __future__ import annotations

from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}
KNOWN = {
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "anyOf", "enum",
    "minimum", "maximum", "minLength", "maxLength", "format", "description", "title", "default",
}  # fmt: skip


def problems(schema: dict[str, Any], value: object, where: str = "$") -> list[str]:
    """What of the value does not fit the schema. Fails at a keyword it does not know, so that none goes unchecked."""
    assert set(schema) <= KNOWN, f"keywords this check does not know: {sorted(set(schema) - KNOWN)}"
    found = []
    if "anyOf" in schema and all(problems(one, value, where) for one in schema["anyOf"]):
        found.append(f"{where} fits none of anyOf")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where} is none of {schema['enum']}")
    if (kind := schema.get("type")) is not None:
        fits = isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        if not fits:
            return [*found, f"{where} is no {kind}"]
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, inner in value.items():
            if name in properties:
                found += problems(properties[name], inner, f"{where}.{name}")
            elif schema.get("additionalProperties", True) is False:
                found.append(f"{where}.{name} is not allowed")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{where} has {len(value)} items")
        for index, inner in enumerate(value):
            found += problems(schema.get("items", {}), inner, f"{where}[{index}]")
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{where} is out of bounds")
    return found
