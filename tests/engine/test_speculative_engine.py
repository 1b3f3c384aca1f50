"""A real engine that drafts tokens; in the last file, since none starts behind it.

Drafting compiles code with numba, and no engine of this vLLM starts in a process that has done so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_metered_engine import run_load

pytestmark = pytest.mark.engine
DRAFTS = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}


def test_books_close_under_speculative_decoding(
    start_engine: Callable[..., Any], tmp_path: Path
) -> None:
    books, _ = run_load(start_engine, tmp_path, speculative_config=DRAFTS)
    assert any(one.part.drafts_rejected_tokens for one in books.parts)
