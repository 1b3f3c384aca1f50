"""Units as types, and the fixed numbers between them."""

from typing import NewType

Tokens = NewType("Tokens", int)
GpuNs = NewType("GpuNs", int)
"""GPU-nanoseconds: wall nanoseconds times the number of GPUs that were held."""

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
MS_PER_S = 1_000
MS_PER_HOUR = 3_600_000
HOURS_PER_DAY = 24
S_PER_HOUR = 3_600
NS_PER_HOUR = 3_600_000_000_000

INT64_MAX = 2**63 - 1
TOKENS_MAX = 2**40
"""No single request carries more tokens; a larger figure is a corrupt event."""
NS_MAX = 2**58
"""65,535 GPUs for one hour, and room above; small enough that an hour's Int64 sum cannot wrap
on a single corrupt figure."""
SEQUENCE_MAX = 2**31 - 1
"""CloudEvents integers are 32 bits; an outbox opens a new source before it gets here."""
VALUE_BYTES_MAX = 2**20
"""Longest value of one event's record; a dead letter carries it in base64, so is longer."""
