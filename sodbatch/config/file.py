"""Configuration files and overrides: found, read as YAML, merged, validated."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sodbatch.config import Config
from sodbatch.config.messages import explain
from sodbatch.config.paddlex import apply_kernel_option
from sodbatch.errors import UsageError
from sodbatch.model.spec import SPECS

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars and ``None``; no duplicate keys, no anchors.

    YAML 1.1, PyYAML's dialect, reads ``no`` as false, ``010`` as 8, ``1:30`` as 90 and ``1e-3`` as text.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a plain value", key_node.start_mark)
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|None|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"-?(0|[1-9][0-9]*)", "-0123456789"),
    (
        "float",
        r"-?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|-?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), [*_first, ""])


def load_config(
    path: str | None = None, overrides: Iterable[str] = (), settings: Mapping[str, Any] | None = None
) -> Config:
    """Read a configuration: the file, then the overrides in their order, then the settings.

    Args:
        path: A YAML file, or the name of a packaged one (see :func:`find_config`); None takes the defaults.
        overrides: ``Section.key=value`` texts; the value is read as YAML.
        settings: ``Section.key`` to a value taken as it is.

    Raises:
        UsageError: A line for each thing at fault.
    """
    raw = read_yaml(find_config(path)) if path is not None else {}
    apply_kernel_option(raw, fill_only=True)
    for override in overrides:
        key, value = parse_override(override)
        _assign(raw, key, value)
        apply_kernel_option(raw, fill_only=False)
    for key, value in (settings or {}).items():
        _assign(raw, key, value)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UsageError(explain(error, raw)) from None


def packaged_configs() -> Path:
    """Return the folder of the official models' files: inside the wheel, or ``configs/`` of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(path: str) -> Path:
    """Find a configuration file by path, or by a packaged file's name.

    ``PP-YOLOE_plus_SOD-S`` names the packaged file; so does any path that does not exist and ends in a packaged
    file's name, as ``paddlex/configs/modules/small_object_detection/PP-YOLOE_plus_SOD-S.yaml`` does.

    Raises:
        UsageError: Neither exists.
    """
    given = Path(path)
    if given.is_file():
        return given
    folder = packaged_configs()
    name = given.name.removesuffix(".yaml").removesuffix(".yml")
    packaged = folder / f"{name}.yaml"
    if packaged.is_file():
        if path != name:
            log.warning("%s does not exist; using the packaged %s", path, packaged.name)
        return packaged
    names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
    hint = f"; that model is named by -o Global.model={name}" if name in SPECS else ""
    raise UsageError(f"{path}: no such configuration file (packaged ones: {names}){hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file as a mapping of sections.

    Raises:
        UsageError: Unreadable, too large, not YAML, a key twice, or not a mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; not a configuration file")
    raw = _parse(data, str(path))
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected sections such as Global and Predict, found {type(raw).__name__}")
    return {section: {} if content is None else content for section, content in raw.items()}


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``Section.key=value``.

    A value that starts with ``[ { " '`` is YAML flow (``{0: 0.5}``); anything else is one plain scalar, so that
    ``*.jpg`` and ``s3://bucket/a: b`` need no quotes.

    Raises:
        UsageError: No ``=``, no section or key, or flow that is not YAML.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or "." not in key or not all(key.split(".")):
        raise UsageError(f"-o {text}: expected Section.key=value, such as Predict.threshold=0.4")
    if value[:1] in ("[", "{", '"', "'"):
        return key, _parse(_spaced(value), f"-o {key}")
    return key, _scalar(value)


def _spaced(flow: str) -> str:
    """Put the space that YAML wants after the colon of ``{0:0.5}``, which PaddleX takes as Python."""
    return re.sub(r"([{,]\s*\d+):(?=\S)", r"\1: ", flow)


def _scalar(text: str) -> Any:
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))


def _parse(data: str | bytes, where: str) -> Any:
    try:
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{where}{line}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise UsageError(f"{where}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


def _assign(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; what stands in the way and is no mapping is replaced by one."""
    *parents, last = key.split(".")
    at = raw
    for parent in parents:
        if not isinstance(at.get(parent), dict):
            at[parent] = {}
        at = at[parent]
    at[last] = value
