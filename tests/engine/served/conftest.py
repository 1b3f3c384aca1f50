"""The tiny model that all served tests share, written once: that alone takes many seconds."""

from pathlib import Path

import pytest

from tests.engine.served.host import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; below it `adapter`, which is one for it."""
    return write_model(tmp_path_factory.mktemp("model"))
