"""What one fetch brought of one partition."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one partition, as one fetch brought them; offsets rise, with holes allowed.

    It covers `[start, end)`: between its records, and at both ends, may lie offsets without a
    record (a transaction's marker, what compaction removed). `log_end` is where the log ended.
    """

    topic: str
    partition: int
    start: int
    end: int
    log_end: int
    offsets: list[int]
    values: list[bytes | None]

    def let_go(self) -> None:
        """Give the records back now: Faust's event around them is a cycle that lives on a while."""
        self.offsets.clear()
        self.values.clear()
