"""No setting lets the ledger forget what a correction still needs."""

import pytest
from pydantic import ValidationError

from streams.settings import StreamSettings


def test_everything_is_kept_for_ten_years_by_default() -> None:
    assert StreamSettings().retention_events_days == 3_660


def test_events_of_a_period_that_may_be_corrected_cannot_go() -> None:
    with pytest.raises(ValidationError, match="399 is less than retention_correctable_days 400"):
        StreamSettings(retention_events_days=399)


def test_rollups_are_kept_as_long_as_their_events() -> None:
    with pytest.raises(ValidationError, match="500 is less than retention_events_days 600"):
        StreamSettings(retention_events_days=600, retention_rollups_days=500)
