"""What an import costs, what the wheel carries, what the pins say."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("ray", "paddle", "cv2", "openvino", "onnxruntime", "pyarrow", "pandas")


def run(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter that sees the checkout."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def loaded_by(statement: str) -> set[str]:
    """The heavy packages that a statement loads."""
    code = (
        f"{statement}\nimport json, sys\nprint('\\n' + json.dumps([name for name in {HEAVY} if sys.modules.get(name)]))"
    )
    return set(json.loads(run(code).splitlines()[-1]))


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "statement",
    ["import sodbatch", "import sodbatch.cli", "from sodbatch.cli import main; main(['--help'])"],
)
def test_import_and_help_load_nothing_heavy(statement: str) -> None:
    assert loaded_by(statement) == set()


def test_python_interface_does_without_ray() -> None:
    assert "ray" not in loaded_by("from sodbatch import create_model")


def test_exactly_one_module_imports_ray_data() -> None:
    using = [
        path.name
        for path in (ROOT / "sodbatch").rglob("*.py")
        if any(name == "ray.data" or name.startswith("ray.data.") for name in imports(path))
    ]
    assert using == ["ray.py"]


def test_telemetry_is_off_before_anything_is_imported() -> None:
    code = "import sodbatch, os, sys; print(os.environ['RAY_USAGE_STATS_ENABLED'], sys.modules['openvino_telemetry'])"
    clean = "".join(["import os; os.environ.pop('RAY_USAGE_STATS_ENABLED', None); ", code])
    assert run(clean).split() == ["0", "None"]


def test_a_user_may_turn_ray_usage_reports_on() -> None:
    code = "import sodbatch, os; print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    assert run(code, RAY_USAGE_STATS_ENABLED="1").strip() == "1"


def test_openvino_works_and_reports_nothing() -> None:
    pytest.importorskip("openvino")
    stub = run("import sodbatch, openvino; from openvino.tools.ovc import telemetry_utils as t; print(t.tm.__name__)")
    assert stub.strip() == "openvino.tools.ovc.telemetry_stub"


def test_wheel_carries_the_configurations() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'\[tool\.hatch\.build\.targets\.wheel\.force-include\]\nconfigs = "sodbatch/configs"', text)


def test_constraints_pin_releases_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.match(r"[a-z0-9-]+==[0-9][^ /:]*( ; .+)?$", line)] == []
    assert {"ray==2.60.0", "paddlepaddle==3.2.2"} <= set(lines)


def test_constraints_pin_every_dependency() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    wanted = set(re.findall(r'"([A-Za-z0-9-]+)(?:\[[a-z]+\])?[>=]=[0-9]', text)) - {"hatchling", "paddlepaddle-gpu"}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {name.lower() for name in wanted} - pinned == set()
    assert "s3fs" in wanted and "ray" in wanted


def test_readme_names_every_column() -> None:
    tables = pytest.importorskip("sodbatch.tables")
    text = (ROOT / "README.md").read_text()
    columns = [*tables.images_schema(tables.pa.schema([])).names, *tables.detections_schema().names]
    assert [name for name in columns if f"`{name}`" not in text] == []


def test_readme_names_every_error_class() -> None:
    from sodbatch.errors import ErrorClass

    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `error_class`"))
    assert [error.value for error in ErrorClass if error.value not in row] == []
