"""YAML and JSON out of a model folder that may be hostile: bounded in size, depth and in what aliases unfold to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sodbatch.errors import UsageError

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 2**28
"""The largest official graph has under 4 MiB."""

MAX_YAML_NODES = 200_000
"""Values of a yml with its aliases written out; official ones have under 200."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file; aliases may stand in it, as PaddleDetection writes them.

    Raises:
        UsageError: In one line: too large, too deep, not YAML, or aliases that unfold to very much.
        OSError: It cannot be read.
    """
    content = _read(path, MAX_YAML_BYTES)
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
        if node is not None and _unfolded(node, {}) > MAX_YAML_NODES:
            raise UsageError(f"{path.name} unfolds to more than {MAX_YAML_NODES:,} values; not a model's configuration")
        return yaml.safe_load(content)
    except RecursionError:
        raise UsageError(f"{path.name} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as error:
        raise UsageError(f"{path.name} is not YAML: {' '.join(str(error).split())[:300]}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: In one line: too large, too deep, or not JSON.
        OSError: It cannot be read.
    """
    try:
        return json.loads(_read(path, MAX_JSON_BYTES))
    except RecursionError:
        raise UsageError(f"{path.name} is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path.name} is not JSON: {str(error)[:300]}") from error


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UsageError(f"{path.name} has more than {limit:,} bytes; no model's {path.suffix} has")
    return content


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the nodes under a node, each as often as aliases lead to it; a node inside itself counts as endless."""
    if id(node) not in known:
        known[id(node)] = MAX_YAML_NODES + 1
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inside = children if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(_unfolded(child, known) for child in inside)
    return known[id(node)]
