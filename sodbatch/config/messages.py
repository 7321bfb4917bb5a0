"""Configuration errors in plain words: one line a key, naming key, value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sodbatch.config import Config

SECRETS = ("secret", "password", "token", "access_key", "credential")


def explain(error: ValidationError, raw: Mapping[str, Any]) -> str:
    """Turn pydantic's errors over ``raw`` into lines for a person.

    Args:
        error: What ``Config.model_validate(raw)`` raised.
        raw: The mapping that was validated.

    Returns:
        One line per key at fault, in the order of the keys; a key with several possible types has one line.
    """
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        unknown = problem["type"] in ("extra_forbidden", "invalid_key")
        where = tuple(part for part in problem["loc"] if part != "[key]") if unknown else _key(problem["loc"])
        key = ".".join(map(str, where))
        if unknown:
            line = unknown_key(where)
        elif problem["type"] == "value_error":
            of_section = "properties" in _schema(where)  # then the message begins with the name of a key in it
            line = (f"{key}{'.' if of_section else ': '}" if key else "") + str(problem["ctx"]["error"])
        else:
            value = _value(raw, where)
            line = f"{key} = {_shown(value)}: expected {allowed(where)}"
            if isinstance(value, (int, float)) and "a text" in line:
                line += " (put the value in quotes to have it read as text)"
        lines.setdefault(key, line)
    return "\n".join(lines.values())


def unknown_key(where: tuple[int | str, ...]) -> str:
    """Say that a section or key does not exist, and which one may have been meant."""
    *section, name = map(str, where)
    known = list(_properties(_schema(section)))
    full = ".".join([*section, name])
    if any(word in name.lower() for word in SECRETS):
        return f"{full}: no such key; credentials come from the environment or a profile, never from here"
    lower = {key.lower(): key for key in known}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    meant = "".join(f"; did you mean {'.'.join([*section, lower[key]])}?" for key in close)
    kind, group = ("key", f"the keys of {section[0]}") if section else ("section", "the sections")
    return f"{full}: no such {kind}{meant} ({group}: {', '.join(known)})"


def allowed(where: tuple[int | str, ...]) -> str:
    """Say what a key takes, such as ``a whole number from 1 to 1024``."""
    return _describe(_schema(where))


def _key(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the part of a location that names a section or key, without what is inside of its value."""
    for length in range(1, len(location) + 1):
        schema = _schema(location[:length])
        if "properties" not in schema or (length < len(location) and location[length] not in _properties(schema)):
            return location[:length]
    return location


def _value(raw: Mapping[str, Any], where: tuple[int | str, ...]) -> Any:
    value: Any = raw
    for part in where:
        value = value[part]
    return value


def _shown(value: Any) -> str:
    from sodbatch.storage.uris import redact  # here, since it brings pyarrow along, which a help text does not need

    text = "null" if value is None else redact(repr(value))
    return text if len(text) <= 120 else f"{text[:117]}..."


def _schema(where: tuple[int | str, ...] | list[str]) -> dict[str, Any]:
    """Return the JSON schema of a section or key, references resolved."""
    whole = Config.model_json_schema()
    found: dict[str, Any] = whole
    for part in where:
        found = _properties(found)[str(part)]
        if "$ref" in found:
            found = whole["$defs"][found["$ref"].rpartition("/")[2]]
    return found


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = schema["properties"]
    return properties


def _describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_describe, schema["anyOf"]))
    if "properties" in schema:
        return f"a section with the keys {', '.join(schema['properties'])}"
    if "description" in schema:
        return str(schema["description"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "const" in schema:
        return str(schema["const"])
    kind = schema["type"]
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(schema)
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"a mapping {{class id: {_describe(values)}}}" if isinstance(values, dict) else "a section"
    return {"string": "a text", "boolean": "true or false", "null": "null"}[str(kind)]


def _range(schema: dict[str, Any]) -> str:
    above, least, most = (schema.get(name) for name in ("exclusiveMinimum", "minimum", "maximum"))
    low = f" above {above:g}" if above is not None else f" from {least}" if least is not None else ""
    if most is None:
        return f" of at least {least}" if least is not None else low
    return f"{low}{' and' if above is not None else ''} {'at most' if above is not None else 'to'} {most:g}"
