"""Serves a model with everything that meters and bills it: `serving_model`, for programs."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from inference.serve_command import compose, find_vllm, vllm_environment
from inference.serve_supervisor import (
    HURRY,
    SERVE_FOLDER,
    ServePlan,
    StoppedServing,
    Supervisor,
)
from inference.settings import InferenceSettings
from inference.vllm_environment import build_site
from infra.ports import choose_port
from infra.settings import InfraSettings, inherited_environment

Say = Callable[[str], None]


class Serving:
    """A model that is served now.

    Attributes:
        base_url: Such as `http://127.0.0.1:PORT`; OpenAI's clients want `/v1` behind it.
        model: What clients call it.
        source: Whose events the usage is; registered in the billing store.
        logs: Of vLLM and of the sidecar.
    """

    def __init__(self, supervisor: Supervisor, base_url: str, model: str) -> None:
        self.base_url = base_url
        self.model = model
        self.source = supervisor.source
        self.logs: tuple[Path, ...] = (supervisor.vllm.log, supervisor.sidecar.log)
        self._supervisor = supervisor
        self._stopped: StoppedServing | None = None
        self._watching = threading.Thread(target=supervisor.watch, name="serving", daemon=True)
        self._watching.start()

    def failure(self) -> str:
        """Why vLLM ended by itself, with its last log lines; empty while it lives."""
        return self._supervisor.failure

    def stop(self, *, hurry: bool = False) -> StoppedServing:
        """End in order: vLLM drains, all is merged and published, the source is closed.

        Args:
            hurry: Kill vLLM; its requests are then billed up to its last mark.
        """
        if self._stopped is None:
            for _ in range(HURRY if hurry else 1):
                self._supervisor.ask_to_stop()
            self._watching.join()
            self._stopped = self._supervisor.stop()
        return self._stopped


@contextmanager
def serving_model(
    model: str,
    options: Sequence[str] = (),
    *,
    settings: InferenceSettings,
    infra: InfraSettings,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Serving]:
    """Serve a model while the block runs; what it served is published when the block has ended.

    Args:
        model: As vLLM takes it: a folder, or a name.
        options: Of `vllm serve`.
        settings: The host's folder, bounds, times.
        infra: Where Kafka and the billing store are.
        environment: Variables for vLLM beside this process's own.
        say: Is told what is going on.

    Raises:
        ServerError: If there is no vLLM, or something does not start; the last log lines are in it.
        SettingsError: If an option does not go with this.
    """
    plan = plan_serving(model, options, settings, infra, environment or {})
    supervisor = Supervisor(plan, say)
    serving: Serving | None = None
    hurry = True
    try:
        supervisor.start()
        serving = Serving(supervisor, plan.serve.base_url, plan.serve.model)
        yield serving
        hurry = False
    except Exception:
        hurry = serving is None
        raise
    finally:
        if serving is not None:
            serving.stop(hurry=hurry)
        else:
            for _ in range(HURRY):
                supervisor.ask_to_stop()
            supervisor.stop()


def plan_serving(
    model: str,
    options: Sequence[str],
    settings: InferenceSettings,
    infra: InfraSettings,
    environment: Mapping[str, str],
) -> ServePlan:
    """What is to run on this machine; makes the folder that shows vLLM Rentroll.

    Raises:
        ServerError: If there is no vLLM; says how to install it.
        SettingsError: If an option does not go with this.
    """
    vllm = find_vllm(settings)
    folder = settings.host_folder.absolute()
    serve = compose(
        vllm.python, model, options, settings, port=choose_port(f"{folder}/{SERVE_FOLDER}")
    )
    site = folder / SERVE_FOLDER / "site"
    if vllm.needs_site:
        build_site(site)
    inherited = inherited_environment()
    return ServePlan(
        serve=serve,
        vllm_environment=vllm_environment({**inherited, **environment}, serve, vllm, site),
        sidecar_environment={**infra.as_environment(), **serve.settings.as_environment()},
    )
