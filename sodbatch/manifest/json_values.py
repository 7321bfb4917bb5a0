"""Values of JSON manifests as columns: types from the first entries, and whether later ones fit them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from sodbatch.errors import UsageError


def scalar(value: Any) -> Any:
    """Return a value as a column can hold it: objects and lists as JSON text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def infer_type(manifest: str, name: str, values: list[Any]) -> pa.DataType:
    """Return the type of a column from its first values; text where all of them are null.

    Raises:
        UsageError: They are of different types; ``manifest`` and ``name`` say where.
    """
    try:
        kind = pa.array([scalar(value) for value in values]).type
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{manifest}, column {name!r}: half of a surrogate pair is no text") from error
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise UsageError(f"{manifest}, column {name!r}: values of different types: {error}") from error
    return pa.string() if pa.types.is_null(kind) else kind


def fits(values: list[Any], kind: pa.DataType) -> bool:
    """Tell whether values are of a type without any conversion but that of integers to floats."""
    try:
        found = pa.array(values).type
    except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
        return False
    return found == kind or pa.types.is_null(found) or (pa.types.is_floating(kind) and pa.types.is_integer(found))
