"""`rentroll calibrate` runs a real engine, times its steps, and writes a profile that fits them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference.calibration import load_profile
from inference.settings import InferenceSettings
from inference.vllm_environment import ensure_environment, python_of
from tests.engine.served.host import QUIET
from tests.support.source import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
OPTIONS = (
    "--served-model-name tiny --load-format dummy --enforce-eager --dtype float32"
    " --max-model-len 1024"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    python = python_of(ensure_environment(InferenceSettings(), lambda _: None))
    script = (
        "import sys; from pathlib import Path; from tests.engine.tiny_llama import"
        " write_tiny_llama; write_tiny_llama(Path(sys.argv[1]))"
    )
    environment = os.environ | QUIET | {"PYTHONPATH": f"{ROOT}"}
    subprocess.run([python, "-c", script, str(folder)], env=environment, check=True)
    return folder


def calibrate(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "rentroll", "calibrate", *words],
        env=os.environ | QUIET,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


@pytest.mark.deep
def test_engine_is_measured_and_its_profile_saved(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.json"
    done = calibrate(str(model), "--out", str(out), *OPTIONS.split())
    assert done.returncode == 0, done.stdout + done.stderr
    profile = load_profile(out)
    assert (profile.model, profile.gpu_type, profile.gpus) == ("tiny", "cpu", 1)
    assert profile.steps > 100
    assert profile.pass_fs > 10**9
    assert f"{out}: tiny on 1 x cpu" in done.stdout


@pytest.mark.deep
def test_engine_that_does_not_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    out = tmp_path / "tiny.json"
    done = calibrate(str(tmp_path / "nowhere"), "--out", str(out))
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr
    assert not out.exists()
