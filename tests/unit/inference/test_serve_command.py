"""The command line and environment of a metered vLLM, composed without starting anything."""

from pathlib import Path

import pytest

from inference.serve_command import (
    MIDDLEWARE,
    REFUSED,
    SCHEDULER,
    ServeCommand,
    VllmPython,
    compose,
    find_vllm,
    option,
    vllm_environment,
)
from inference.settings import InferenceSettings
from schemas.errors import ServerError, SettingsError

PYTHON = Path("/opt/vllm/bin/python")
SETTINGS = InferenceSettings(host_folder=Path("/var/lib/rentroll"))
HERE = VllmPython(PYTHON, "0.32.0", needs_site=False)
APART = VllmPython(PYTHON, "0.32.0+cpu", needs_site=True)


def composed(*options: str) -> ServeCommand:
    return compose(PYTHON, "some/model", options, SETTINGS, port=18_001)


def value_of(serve: ServeCommand, name: str) -> str | None:
    return option(serve.command, name)


def test_without_options_it_listens_on_the_free_port_of_loopback_and_drains() -> None:
    serve = composed()
    assert serve.command[:6] == (
        *(str(PYTHON), "-P", "-m", "vllm.entrypoints.cli.main", "serve", "some/model"),
    )
    assert value_of(serve, "--host") == "127.0.0.1"
    assert value_of(serve, "--port") == "18001"
    assert value_of(serve, "--shutdown-timeout") == "60"
    assert value_of(serve, "--scheduler-cls") == SCHEDULER
    assert (serve.base_url, serve.model) == ("http://127.0.0.1:18001", "some/model")


def test_our_middleware_stands_behind_every_other_so_that_it_is_the_outermost() -> None:
    serve = composed("--middleware", "mine.Log")
    assert serve.command[-2:] == ("--middleware", MIDDLEWARE)
    assert serve.command.index("mine.Log") < len(serve.command) - 1


@pytest.mark.parametrize(
    ("options", "url"),
    [
        (("--port", "8000"), "http://127.0.0.1:8000"),
        (("--port=8000", "--host", "0.0.0.0"), "http://127.0.0.1:8000"),
        (("--host", "::", "--port", "1"), "http://[::1]:1"),
        (("--host=gpu7", "--port", "443", "--ssl-keyfile", "key.pem"), "https://gpu7:443"),
    ],
)
def test_given_address_goes_through_and_is_where_the_server_is_reached(
    options: tuple[str, ...], url: str
) -> None:
    serve = composed(*options)
    assert serve.base_url == url
    assert serve.command.count("--port") + sum("--port=" in w for w in serve.command) == 1


def test_given_shutdown_timeout_is_how_long_it_drains() -> None:
    serve = composed("--shutdown_timeout=7")
    assert serve.drain_s == 7
    assert "--shutdown-timeout" not in serve.command


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize("form", ["{} x", "{}=x"])
def test_option_that_would_leave_the_model_unbilled_or_unreachable_is_refused(
    name: str, form: str
) -> None:
    for spelt in (name, name[:2] + name[2:].replace("-", "_")):
        with pytest.raises(SettingsError, match=name):
            composed(*form.format(spelt).split())


def test_settings_follow_options_that_both_sides_must_agree_on() -> None:
    serve = composed("-asc", "4", "--scheduling-policy", "priority")
    assert serve.settings.door_api_workers == 4
    assert serve.settings.door_priority_scheduling
    assert composed().settings == SETTINGS


def test_port_that_is_no_number_is_refused_by_its_name() -> None:
    with pytest.raises(SettingsError, match="--port is a whole number, not 'http'"):
        composed("--port", "http")


def test_clients_call_the_model_by_its_first_served_name() -> None:
    assert composed("--served-model-name", "tiny", "little").model == "tiny"
    assert '"model": "tiny"' in composed("--served-model-name=tiny").curl


def test_vllm_gets_no_address_and_no_secret_of_the_billing_side() -> None:
    inherited = {
        "PATH": "/bin",
        "RENTROLL_STORE_URL": "postgresql://u:secret@db/x",
        "RENTROLL_STRIPE_API_KEY": "sk_live_secret",
        "RENTROLL_INFERENCE_MARK_MS": "7",
    }
    found = vllm_environment(inherited, composed(), HERE, Path("/site"))
    assert "secret" not in str(found)
    assert found["PATH"] == "/bin"
    assert found["RENTROLL_INFERENCE_MARK_MS"] == "1000"
    assert found["RENTROLL_INFERENCE_HOST_FOLDER"] == "/var/lib/rentroll"
    assert "PYTHONPATH" not in found


def test_vllm_of_another_environment_is_shown_rentroll_and_keeps_what_a_person_set() -> None:
    inherited = {"PYTHONPATH": "/mine", "VLLM_CPU_KVCACHE_SPACE": "9"}
    found = vllm_environment(inherited, composed(), APART, Path("/site"))
    assert found["PYTHONPATH"] == "/site:/mine"
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "9"
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_settings_come_back_from_the_environment_they_become(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SETTINGS.model_copy(update={"door_priority_scheduling": True, "interval_s": 3})
    for name, text in settings.as_environment().items():
        monkeypatch.setenv(name, text)
    again = InferenceSettings()
    assert again.model_dump(exclude={"cache_folder", "door_keys_file"}) == settings.model_dump(
        exclude={"cache_folder", "door_keys_file"}
    )
    assert again.door_keys_file == settings.door_keys_file.absolute()


def test_machine_without_vllm_is_told_how_to_install_one(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"pip install 'rentroll\[vllm\]'.*`make vllm`"):
        find_vllm(InferenceSettings(cache_folder=tmp_path))


def test_vllm_that_was_installed_for_cpus_is_found(tmp_path: Path) -> None:
    from inference.vllm_environment import environment_folder, python_of

    settings = InferenceSettings(cache_folder=tmp_path)
    python = python_of(environment_folder(settings))
    python.parent.mkdir(parents=True)
    python.touch()
    found = find_vllm(settings)
    assert (found.python, found.needs_site) == (python, True)
    assert "cpu" in found.version
