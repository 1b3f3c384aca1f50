"""`rentroll quarantine`, `sources` and `dlq` as a person types them, on a real ledger and store."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from infra.clickhouse.client import connect
from infra.clickhouse.migrate import migrate
from infra.store.decisions import decisions_after
from infra.store.sources import registered_keys
from rentroll import close_commands, dlq_commands, quarantine_commands, source_commands
from schemas.errors import ContractError
from tests.support.closing import Books
from tests.support.events import one_busy_hour, rewritten
from tests.support.ledger import LedgerWriter

Command = Callable[..., Result]
_numbers = itertools.count(1)
WHY = ("--reason", "ticket 12", "--by", "ada")


@pytest.fixture
def books(
    clickhouse_url: str, store: Engine, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Books]:
    database = f"trust_{next(_numbers)}"
    migrate(clickhouse_url, database)
    for name, value in {
        "CLICKHOUSE_URL": clickhouse_url,
        "CLICKHOUSE_DATABASE": database,
        "STORE_URL": store_url,
        "KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "STRIPE_API_KEY": "sk_test_unused",
    }.items():
        monkeypatch.setenv(f"RENTROLL_{name}", value)
    monkeypatch.setenv("COLUMNS", "240")
    client = connect(clickhouse_url, database)
    yield Books(client, store, LedgerWriter(client))
    client.command(f"DROP DATABASE {database}")
    client.close()


def rentroll(*words: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    for module in (close_commands, quarantine_commands, source_commands, dlq_commands):
        module.register(app)
    return CliRunner().invoke(app, list(words))


def said(*words: str) -> str:
    done = rentroll(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def refused(*words: str) -> str:
    done = rentroll(*words)
    assert done.exit_code != 0
    return str(done.exception) if isinstance(done.exception, ContractError) else done.output


def test_contradiction_is_listed_shown_and_resolved(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    true = host.records[2]
    books.writer.write([*host.records, rewritten(true, input_uncached_tokens=1)])
    assert "nothing is quarantined" in said("quarantine", "list")
    assert "quarantined 1" in " ".join(said("close", "--hour", "2026-10-01T00").split())

    listed = said("quarantine", "list")
    assert true.event.id in listed
    assert "awaits a decision" in listed
    shown = said("quarantine", "show", true.event.id)
    assert "input_uncached_tokens" in shown
    assert "no" in shown

    forged = rewritten(true, input_uncached_tokens=1).content_hash.hex()
    resolve = ("quarantine", "resolve", true.event.id)
    assert "no registered source signed" in refused(*resolve, "--keep", forged, *WHY)
    assert "say why" in refused(*resolve, "--none", "--reason", " ")
    assert "give EVENT" in refused(*resolve, *WHY)
    keep = true.content_hash.hex()[:8]
    assert "1 hours, 1 with a new run, 0 held" in said(*resolve, "--keep", keep, *WHY)

    assert books.view()[0] == 5
    (decision,) = decisions_after(books.store, 0)
    assert (decision.decided_by, decision.reason) == ("ada", "ticket 12")
    assert true.event.id not in said("quarantine", "list", "--period", "2026-10")
    assert "keep" in said("quarantine", "list", "--period", "2026-10", "--settled")
    assert "ticket 12" in said("quarantine", "show", true.event.id)


def test_flood_is_resolved_by_signature(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write([*host.records, *(rewritten(one, total_ns=1) for one in host.records[1:6])])
    said("close", "--hour", "2026-10-01T00")

    assert "1 with a new run" in said("quarantine", "resolve", "--signed", *WHY)
    assert books.view() == (5, 500, 200_000_010)
    assert len(decisions_after(books.store, 0)) == 5


def test_source_is_registered_shown_rotated_and_revoked(books: Books) -> None:
    host = one_busy_hour()
    key = host.key.public_key_hex()
    books.writer.write(host.records)
    register = ("sources", "register", host.source, "--host", "gpu-7", "--public-key")
    assert "64 hex digits" in refused(*register, "ab", *WHY)
    said(*register, key, *WHY)
    assert registered_keys(books.store) == {host.source: key}
    assert "registered with another key" in refused(*register, "ab" * 32, *WHY)
    said("close", "--hour", "2026-10-01T00")
    assert books.view()[0] == 5

    shown = said("sources", "show", host.source)
    assert "proven through sequence 7" in shown
    assert "ticket 12" in shown
    rotate = ("sources", "rotate", host.source, "--public-key", "cd" * 32)
    assert "from sequence 9" in said(*rotate, "--from-sequence", "9", *WHY)
    compromised = said("sources", "revoke", host.source, "--compromised", *WHY)
    assert "1 hours, 0 with a new run, 1 held" in compromised
    assert "compromised" in said("sources", "list")
    assert "say --trusted-through" in refused("sources", "revoke", host.source, *WHY)
    through = ("--trusted-through", "0")
    assert "0 held" in said("sources", "revoke", host.source, *through, *WHY)
    assert books.view()[0] == 0
    assert registered_keys(books.store) == {}


def test_dead_letter_is_listed_shown_and_discarded(books: Books, tmp_path: Path) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 3)
    books.writer.write_dead_letter(host.records[2])
    said("close", "--hour", "2026-10-01T00")

    assert "usage.v1/0/4" in said("dlq", "list")
    copy = tmp_path / "record"
    shown = said("dlq", "show", "usage.v1/0/4", "--to", str(copy))
    assert "refused by a test" in shown
    assert copy.stat().st_size > 0
    assert "name dead letters, or give --all" in refused("dlq", "discard", *WHY)
    discarded = said("dlq", "discard", "usage.v1/0/4", *WHY)
    assert "decision 1: usage.v1/0/4 is discarded" in discarded
    assert "1 hours, 0 with a new run, 0 held" in discarded
    assert "no such dead letters" in said("dlq", "list")
    assert "discarded" in said("dlq", "list", "--state", "all")
    assert "is discarded already" in refused("dlq", "redrive", "usage.v1/0/4", *WHY)
