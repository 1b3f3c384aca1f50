"""A real vLLM engine in this process: a tiny random Llama, stepped by the test itself."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_PLUGINS": "",
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer of a Llama with two layers; its weights are random."""
    from tests.engine.tiny_llama import write_tiny_llama

    return write_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture
def overlapping_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlapping steps, as on GPUs; vLLM's CPU platform turns them off."""
    from vllm.platforms.cpu import CpuPlatform

    configure = CpuPlatform.check_and_update_config.__func__

    def and_overlap(cls: type, config: Any) -> None:
        configure(cls, config)
        config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", classmethod(and_overlap))


@pytest.fixture
def start_engine(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Start a metered engine with the given options; its spool lies below `tmp_path`."""
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RENTROLL_INFERENCE_HOST_FOLDER", str(tmp_path / "host"))
    monkeypatch.setenv("RENTROLL_INFERENCE_INTERVAL_S", "1")
    monkeypatch.setenv("RENTROLL_INFERENCE_MARK_MS", "200")
    engines = []

    def start(**options: Any) -> Any:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        arguments = {
            "model": str(tiny_model),
            "load_format": "dummy",
            "enforce_eager": True,
            "dtype": "float32",
            "max_model_len": 1024,
            "distributed_executor_backend": "uni",
            "scheduler_cls": "inference.vllm_scheduler.MeteredScheduler",
            "disable_log_stats": True,
            **options,
        }
        engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.engine_core.shutdown()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """A skipped test is a failed one: whoever asks for these has the engine."""
    del item
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing here may be: {report.longrepr}"
    return report
