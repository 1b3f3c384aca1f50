"""Field types that every contract is built from, and the base class of all contracts."""

import json
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from schemas.ids import (
    EVENT_TIME_FIRST_MS,
    EVENT_TIME_LAST_MS,
    TIME_PATTERN,
    UUID7_PATTERN,
    UUID_PATTERN,
    parse_ms,
)
from schemas.units import INT64_MAX, NS_MAX, SEQUENCE_MAX, TOKENS_MAX

SHA256_PATTERN = r"^[0-9a-f]{64}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
LABEL_PATTERN = r"^[\x20-\x7e]*$"


class Contract(BaseModel):
    """Base of everything that crosses a stage: frozen, strict, nothing unknown let through."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    def canonical_json(self) -> str:
        """The one text that ids, hashes and stored bodies of this contract are made of.

        Keys sorted, no spaces, fields at their default left out: a later version may add an
        optional field without changing the hash of what was written before it.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _real_instant(text: str) -> str:
    """Refuse 30 February, and years that the ledger's partitions do not cover."""
    if not EVENT_TIME_FIRST_MS <= parse_ms(text) < EVENT_TIME_LAST_MS:
        raise ValueError(f"{text} is outside the years 2015 to 2099")
    return text


Name = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=128)]
"""A key that people choose: tenant, project, model, replica. ASCII, no spaces."""
OptionalName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:/@+-]*)?$", max_length=128)]
"""A `Name`, or the empty string where there is none; never null."""
Label = Annotated[str, Field(pattern=LABEL_PATTERN, max_length=256)]
"""Text from outside, kept as it came: printable ASCII, may be empty."""
EventId = Annotated[str, Field(pattern=UUID7_PATTERN, min_length=36, max_length=36)]
SourceId = Annotated[str, Field(pattern=UUID_PATTERN, min_length=36, max_length=36)]
Timestamp = Annotated[
    str, Field(pattern=TIME_PATTERN, min_length=24, max_length=24), AfterValidator(_real_instant)
]
"""A UTC instant as `schemas.ids.format_ms` writes it, in the years 2015 to 2099."""
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN, min_length=64, max_length=64)]
HexKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
"""An Ed25519 public key: 32 bytes as hex."""
HexSignature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$", min_length=128, max_length=128)]
"""An Ed25519 signature: 64 bytes as hex."""
TokenCount = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
Nanoseconds = Annotated[int, Field(ge=0, le=NS_MAX)]
Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Sequence = Annotated[int, Field(ge=1, le=SEQUENCE_MAX)]
SequenceOrNone = Annotated[int, Field(ge=0, le=SEQUENCE_MAX)]
"""A `Sequence`, or 0 where there is none yet."""
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", min_length=3, max_length=3)]
"""ISO 4217, upper case."""
GpuCount = Annotated[int, Field(ge=0, le=65_535)]
