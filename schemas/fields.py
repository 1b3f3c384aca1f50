"""Field types that every contract is built from, and the base class of all contracts."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.ids import TIME_PATTERN, UUID7_PATTERN, UUID_PATTERN
from schemas.units import INT64_MAX, NS_MAX, SEQUENCE_MAX, TOKENS_MAX

SHA256_PATTERN = r"^[0-9a-f]{64}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
LABEL_PATTERN = r"^[\x20-\x7e]*$"


class Contract(BaseModel):
    """Base of everything that crosses a stage: frozen, strict, nothing unknown let through."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


Name = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=128)]
"""A key that people choose: tenant, project, model, replica. ASCII, no spaces."""
OptionalName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:/@+-]*)?$", max_length=128)]
"""A `Name`, or the empty string where there is none; never null."""
Label = Annotated[str, Field(pattern=LABEL_PATTERN, max_length=256)]
"""Text from outside, kept as it came: printable ASCII, may be empty."""
EventId = Annotated[str, Field(pattern=UUID7_PATTERN, min_length=36, max_length=36)]
SourceId = Annotated[str, Field(pattern=UUID_PATTERN, min_length=36, max_length=36)]
Timestamp = Annotated[str, Field(pattern=TIME_PATTERN, min_length=24, max_length=24)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN, min_length=64, max_length=64)]
HexKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
"""An Ed25519 public key: 32 bytes as hex."""
HexSignature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$", min_length=128, max_length=128)]
"""An Ed25519 signature: 64 bytes as hex."""
TokenCount = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
Nanoseconds = Annotated[int, Field(ge=0, le=NS_MAX)]
Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Sequence = Annotated[int, Field(ge=1, le=SEQUENCE_MAX)]
GpuCount = Annotated[int, Field(ge=0, le=65_535)]
