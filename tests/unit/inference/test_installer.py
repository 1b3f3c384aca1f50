"""What installs is tried again where a network failed, and an error with a remedy otherwise."""

from pathlib import Path

import pytest

from inference.installer import ATTEMPTS, NETWORK_SIGNS, REMEDIES, remedy_for, run_installer
from schemas.errors import ServerError


def failing(folder: Path, times: int, words: str) -> list[str]:
    """A command that says this and fails, so many times; then it does what it should."""
    script = (
        f"echo x >> {folder}/tries; "
        f"[ $(wc -l < {folder}/tries) -gt {times} ] || {{ echo '{words}' >&2; exit 2; }}"
    )
    return ["sh", "-c", script]


def tries(folder: Path) -> int:
    return len((folder / "tries").read_text().splitlines())


@pytest.mark.parametrize("sign", NETWORK_SIGNS)
def test_network_that_comes_back_is_waited_for_and_told(tmp_path: Path, sign: str) -> None:
    said: list[str] = []
    run_installer(failing(tmp_path, 2, f"error: {sign} for it"), say=said.append, pause_s=0)
    assert tries(tmp_path) == 3
    assert [one.rsplit(";")[1] for one in said] == [" attempt 2 of 4", " attempt 3 of 4"]


def test_network_that_stays_away_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"index cannot be reached(.|\n)*Failed to fetch: it"):
        run_installer(failing(tmp_path, 99, "Failed to fetch: it"), pause_s=0)
    assert tries(tmp_path) == ATTEMPTS


@pytest.mark.parametrize("words", ["hash mismatch", "torch==2 has no wheels", "what else"])
def test_anything_else_is_an_error_at_once(tmp_path: Path, words: str) -> None:
    with pytest.raises(ServerError, match=words):
        run_installer(failing(tmp_path, 99, words), pause_s=0)
    assert tries(tmp_path) == 1


def test_installer_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="the model cannot be installed"):
        run_installer([str(tmp_path / "nowhere")], "the model")


@pytest.mark.parametrize("sign", [sign for sign, _ in REMEDIES])
def test_every_remedy_says_what_to_do(sign: str) -> None:
    assert remedy_for(f"error: {sign} and so on") != remedy_for("something else")
