"""The tiny model that all served tests share, written once: that alone takes many seconds."""

import os
import subprocess
from pathlib import Path

import pytest

from inference.settings import InferenceSettings
from inference.vllm_environment import ensure_environment, python_of
from tests.engine.served.host import QUIET
from tests.support.source import ROOT


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; below it `adapter`, which is one for it."""
    folder = tmp_path_factory.mktemp("model")
    python = python_of(ensure_environment(InferenceSettings(), lambda _: None))
    command = [str(python), "-m", "tests.engine.tiny_llama", str(folder)]
    subprocess.run(command, env=os.environ | QUIET | {"PYTHONPATH": f"{ROOT}"}, check=True)
    return folder
