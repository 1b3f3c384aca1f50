"""The built wheel carries what the packages read at run time beside their code."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_migrations_templates_and_examples_ship_in_the_wheel(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    build = [str(uv), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    here = [
        *ROOT.glob("infra/clickhouse/migrations/*.sql"),
        *ROOT.glob("infra/store/migrations/*.py"),
        ROOT / "infra/store/env.py",
        *ROOT.glob("billing/templates/*"),
        *ROOT.glob("billing/examples/*.yaml"),
    ]
    assert len(here) >= 7
    assert {str(path.relative_to(ROOT)) for path in here} <= shipped


def test_sample_trace_with_its_licence_and_example_files_ship_in_the_wheel(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    build = [str(uv), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    examples = list((ROOT / "inference/simulate/examples").iterdir())
    assert len(examples) >= 4
    shipped = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(ROOT)) for path in examples} <= shipped
