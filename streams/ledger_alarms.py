"""Counts that must be 0, or that a person must look at: one figure per alarm of the ledger."""

from dataclasses import dataclass, field

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.store.sources import source_histories
from streams.dead_letter_book import open_by_reason
from streams.hour_findings import findings_total


@dataclass(frozen=True, slots=True)
class LedgerAlarms:
    """What the newest close of each hour found, and what awaits a decision.

    Attributes:
        quarantined: Event ids with different contents and without a decision.
        held_unsigned: Requests in the ledger that no registered source signed.
        dropped: Signed requests that are not billed: quarantined, or by a decision.
        oldest_finding_ms: Start of the oldest hour with one of the first two, 0 for none.
        dead_letters_open: Refused records that nobody decided about.
        dead_letters_by_reason: The same by the reason of the refusal.
        compromised_sources: Sources whose key is compromised, without a word on how far it counts.
    """

    quarantined: int = 0
    held_unsigned: int = 0
    dropped: int = 0
    oldest_finding_ms: int = 0
    dead_letters_open: int = 0
    dead_letters_by_reason: dict[str, int] = field(default_factory=dict)
    compromised_sources: int = 0


def ledger_alarms(client: Client, store: Engine) -> LedgerAlarms:
    """The figures as they stand; reads no event, so it may be asked every few seconds.

    Raises:
        ContractError: If a decision in the store cannot be read.
    """
    found, letters = findings_total(client), open_by_reason(client, store)
    return LedgerAlarms(
        quarantined=found.quarantined,
        held_unsigned=found.unsigned,
        dropped=found.dropped,
        oldest_finding_ms=found.hour_ms,
        dead_letters_open=sum(letters.values()),
        dead_letters_by_reason=letters,
        compromised_sources=sum(
            one.keys.suspected_from is not None for one in source_histories(store)
        ),
    )
