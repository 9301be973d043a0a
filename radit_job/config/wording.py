"""The schema in words: what a place in the configuration may hold, for error messages and for comments.

Everything is read from the schema's JSON Schema, which pydantic keeps in step with the models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from radit_job.config.schema import Config

JsonSchema = dict[str, Any]
Place = tuple[str | int, ...]  # the keys and list positions that lead to a value


@cache
def whole_schema() -> JsonSchema:
    """The configuration's JSON Schema (draft 2020-12), with the sections under `$defs`."""
    return Config.model_json_schema()


def resolve(schema: JsonSchema) -> JsonSchema:
    """The schema behind a `$ref`, with what stands beside the reference laid over it."""
    if "$ref" not in schema:
        return schema
    target = whole_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def alternatives(schema: JsonSchema) -> list[JsonSchema]:
    """What a value may be, each resolved: more than one where null is allowed."""
    return [resolve(option) for option in schema.get("anyOf", [schema])]


def fields_of(schema: JsonSchema) -> dict[str, JsonSchema]:
    """The fields of a section, in the schema's order; empty for a plain value."""
    fields: dict[str, JsonSchema] = {}
    for option in alternatives(schema):
        fields.update(option.get("properties", {}))
    return fields


def items_of(schema: JsonSchema) -> JsonSchema | None:
    """What each item of a list may be; None where no list can stand."""
    return next((option["items"] for option in alternatives(schema) if "items" in option), None)


def entries_of(schema: JsonSchema) -> JsonSchema | None:
    """What each value under a name of the user's own may be, `{}` for anything; None where names are fixed."""
    for option in alternatives(schema):
        for found in (*option.get("patternProperties", {}).values(), option.get("additionalProperties", False)):
            if found is not False:
                return found if isinstance(found, dict) else {}
    return None


def names_of(schema: JsonSchema) -> list[str]:
    """The keys that may stand in a section, or that its user may choose from; empty where any may."""
    chosen = [option.get("propertyNames", {}).get("enum", []) for option in alternatives(schema)]
    return [*fields_of(schema), *(name for names in chosen for name in names)]


def schema_at(place: Place) -> JsonSchema | None:
    """The schema of the value at a place; None where the schema knows no such place."""
    found: JsonSchema = whole_schema()
    for key in place:
        if isinstance(key, int):
            inner = items_of(found)
        else:
            fields = fields_of(found)
            inner = fields[key] if key in fields else entries_of(found)
        if inner is None:
            return None
        found = inner
    return found


def sections() -> Iterator[tuple[str, JsonSchema]]:
    """The top level's sections."""
    for name, schema in whole_schema()["properties"].items():
        if fields_of(schema):
            yield name, schema


def in_words(schema: JsonSchema) -> str:
    """What a value may be: "a whole number of at least 1 (chunks)", "one of fail, skip", "text, or null"."""
    unit = f" ({schema['unit']})" if schema.get("unit") else ""
    options = [_plain_in_words(option) for option in alternatives(schema)]
    return ", or ".join([options[0] + unit, *options[1:]])


def takes_text(schema: JsonSchema) -> bool:
    """Whether any text can stand there: not one of a few choices."""
    return any(option.get("type") == "string" and "enum" not in option for option in alternatives(schema))


def dotted(place: Sequence[str | int]) -> str:
    """A place as a person writes it; positions in a list are left out, for the line tells them."""
    return ".".join(key for key in place if isinstance(key, str))


def _plain_in_words(schema: JsonSchema) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return f"one of {schema['const']}"
    if "properties" in schema:
        return "a section with fields of its own"
    if "form" in schema:
        return str(schema["form"])
    if "type" not in schema:
        return "any value"
    if schema["type"] == "object":
        return _entries_in_words(schema)
    if schema["type"] == "array":
        return f"a {'non-empty ' if schema.get('minItems') else ''}list, each item {in_words(schema['items'])}"
    if schema["type"] == "string":
        return "text that is not empty" if schema.get("minLength") else "text"
    names = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}
    return names[schema["type"]] + _limits(schema)


def _entries_in_words(schema: JsonSchema) -> str:
    names, entry = schema.get("propertyNames", {}), entries_of(schema) or {}
    key = f", the name {in_words(names)}" if {"enum", "form"} & set(names) else ""
    if not entry:
        return "any fields"
    return f"sections by name{key}" if fields_of(entry) else f"values by name, each {in_words(entry)}{key}"


def _limits(schema: JsonSchema) -> str:
    words = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "of at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{words[key]} {schema[key]:g}" for key in words if key in schema]
    return " " + " and ".join(limits) if limits else ""
