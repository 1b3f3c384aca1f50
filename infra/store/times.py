"""Hours as the billing store keeps them: milliseconds since the epoch."""

from datetime import UTC, datetime

from schemas.errors import ContractError
from schemas.units import MS_PER_HOUR, MS_PER_S


def hour_to_ms(hour: datetime) -> int:
    """Milliseconds since the epoch of a whole UTC hour.

    Raises:
        ContractError: If the instant has no time zone or is not the start of a UTC hour.
    """
    whole_s = int(hour.timestamp()) if hour.tzinfo else -1
    hour_ms = whole_s * MS_PER_S
    if hour.tzinfo is None or hour.microsecond or hour_ms % MS_PER_HOUR:
        raise ContractError(f"an hour starts on a whole UTC hour: {hour.isoformat()}")
    return hour_ms


def ms_to_hour(hour_ms: int) -> datetime:
    """The hour that starts `hour_ms` after the epoch."""
    return datetime.fromtimestamp(hour_ms // MS_PER_S, UTC)
