"""`rentroll audit invoice`: identical, or what was changed, by name: each fault planted by hand."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from billing.planning import plan_period
from billing.price_book_file import BookFile
from billing.price_books import import_book
from billing.rederiving import Difference, stored_invoice
from billing.settings import BillingSettings
from infra.clickhouse.client import Client, connect
from infra.store.engine import open_store
from infra.store.tables import invoices, price_books, rollup_runs
from rentroll.audit_views import audit_text
from rentroll.invoice_audit import Audit, audit_from_ledger, audit_from_log
from schemas.billing import Invoice
from schemas.prices import PriceBook
from schemas.tables import TABLES
from streams.replay import Replay, ReplayTarget
from streams.replay_reading import ArchiveSource
from streams.settings import StreamSettings
from tests.support.archives import archive_of
from tests.support.billing_examples import OCTOBER, book_of, unit_price
from tests.support.closing import Books
from tests.support.command_line import Rentroll
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record
from tests.support.ledger import LedgerWriter
from tests.support.published_usage import ledger as ledger_of

BOOK = book_of(
    unit_price("input", "1234.5"), unit_price("output", "3333.3", meter="output_text_tokens")
)


@dataclass(frozen=True)
class Planned:
    """A ledger and a store in which a month was planned, to be copied and not to be changed."""

    client: Client
    store_file: Path
    records: list[Record]


@pytest.fixture(scope="module")
def planned(
    clickhouse_url: str, migrated_sqlite_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planned]:
    """Two tenants' requests over three hours, closed and planned with a book in the store."""
    file = tmp_path_factory.mktemp("audit") / "store.db"
    shutil.copy(migrated_sqlite_file, file)
    store = open_store(f"sqlite:///{file}")
    with ledger_of(clickhouse_url, "test_audit") as client:
        books = Books(client, store, LedgerWriter(client))
        host = three_hours()
        books.register(host)
        books.writer.write(host.records)
        books.close(period=OCTOBER)
        import_book(store, BookFile(BOOK, "test"), imported_by="ann", now_ms=0)
        plan_period(client, store, OCTOBER, BOOK, clock=books.clock, settings=BillingSettings())
        store.dispose()
        yield Planned(client, file, host.records)


def three_hours() -> HostScript:
    host = HostScript("audited")
    for hour in range(3):
        for number in range(4):
            tenant = ("acme", "globex")[number % 2]
            host.request(OCTOBER_MS + hour * HOUR_MS + number * 1000, tenant)
        host.interval(OCTOBER_MS + (hour + 1) * HOUR_MS)
    host.closed(OCTOBER_MS + 3 * HOUR_MS)
    return host


@pytest.fixture
def records(planned: Planned) -> list[Record]:
    return planned.records


@pytest.fixture
def books(planned: Planned, tmp_path: Path) -> Iterator[Books]:
    """The shared ledger, to be read only, and a copy of the store that may be tampered with."""
    file = tmp_path / "store.db"
    shutil.copy(planned.store_file, file)
    store = open_store(f"sqlite:///{file}")
    with store.begin() as connection:  # who changes it behind our back drops its rules first
        rules = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for rule in connection.execute(rules).scalars().all():
            connection.execute(text(f"DROP TRIGGER {rule}"))
    yield Books(planned.client, store, LedgerWriter(planned.client))
    store.dispose()


@pytest.fixture
def own_ledger(planned: Planned, books: Books, clickhouse_url: str) -> Iterator[None]:
    """Gives the test a copy of the ledger too."""
    with ledger_of(clickhouse_url, "test_audit_copy") as client:
        for table in TABLES:
            client.command(
                f"INSERT INTO {table.name} SELECT * FROM {planned.client.database}.{table.name}"
            )
        books.client = client
        books.writer = LedgerWriter(client)
        for record in planned.records:
            books.writer.offsets[record.topic] = books.writer.offsets.get(record.topic, -1) + 1
        yield


def acme(books: Books) -> Invoice:
    with books.store.connect() as connection:
        query = select(invoices.c.body).where(invoices.c.tenant == "acme")
        return Invoice.model_validate_json(connection.execute(query).scalar_one())


def acme_id(books: Books) -> str:
    with books.store.connect() as connection:
        query = select(invoices.c.id).where(invoices.c.tenant == "acme")
        return str(connection.execute(query).scalar_one())


def audited(books: Books) -> Audit:
    stored = stored_invoice(books.store, acme_id(books))
    return audit_from_ledger(books.client, books.store, stored, settings=StreamSettings())


def from_archive(books: Books, url: str, root: Path, records: list[Record]) -> Audit:
    archive = archive_of(root, records)
    database = str(books.client.database)
    scratch = f"{database}_audit"
    replay = Replay(ReplayTarget(url, scratch, database), books.store, StreamSettings())
    replay.prepare()
    try:
        with connect(url, scratch) as client:
            stored = stored_invoice(books.store, acme_id(books))
            return audit_from_log(replay, client, ArchiveSource(archive, 7), books.store, stored)
    finally:
        replay.drop()


def different(audit: Audit) -> Difference:
    assert audit.difference is not None
    return audit.difference


def change(books: Books, table: str, what: str) -> None:
    books.client.command(f"ALTER TABLE {table} {what} SETTINGS mutations_sync = 2")


def set_body(books: Books, **content: object) -> None:
    with books.store.begin() as connection:
        query = select(invoices.c.body).where(invoices.c.tenant == "acme")
        body = json.loads(connection.execute(query).scalar_one()) | content
        changed = json.dumps(body, sort_keys=True, separators=(",", ":"))
        mine = invoices.c.tenant == "acme"
        connection.execute(update(invoices).where(mine).values(body=changed))


def test_untouched_invoice_is_identical_byte_for_byte(books: Books) -> None:
    audit = audited(books)
    assert audit.difference is None
    assert (audit.events, audit.hours, audit.lines) == (6, 3, 2)
    assert audit.total_minor == acme(books).total_minor == 114
    assert audit_text(audit, "ledger").plain.startswith("identical: invoice ")


def test_untouched_invoice_is_identical_from_the_archive(
    books: Books, records: list[Record], clickhouse_url: str, tmp_path: Path
) -> None:
    audit = from_archive(books, clickhouse_url, tmp_path / "archive", records)
    assert audit.difference is None
    assert (audit.events, audit.hours, audit.lines, audit.total_minor) == (6, 3, 2, 114)


@pytest.mark.usefixtures("own_ledger")
def test_run_that_was_replaced_since_is_still_audited(books: Books, records: list[Record]) -> None:
    late = HostScript("late", host="host-2")
    late.request(OCTOBER_MS + 5000)
    late.interval(OCTOBER_MS + HOUR_MS)
    late.closed(OCTOBER_MS + HOUR_MS)
    books.register(late)
    books.writer.write(late.records)
    assert books.close(period=OCTOBER).hours[0].changed
    assert audited(books).difference is None


@pytest.mark.usefixtures("own_ledger")
def test_event_that_was_changed_is_told_from_a_changed_row(
    books: Books, records: list[Record], clickhouse_url: str, tmp_path: Path
) -> None:
    """Its hash is as it was, so only sums tell; the archive knows which event it is."""
    event = next(one.event for one in records if one.event.subject == "acme")
    add = "output_text_tokens = output_text_tokens + 1"
    change(books, "usage_events", f"UPDATE {add} WHERE event_id = '{event.id}'")
    found = different(audited(books))
    assert (found.culprit, found.stored, found.derived) == ("event", "40", "41")
    assert found.where.startswith("2026-10-01T00:00Z, row search/key-1/llama-3.1-8b/")
    found = different(from_archive(books, clickhouse_url, tmp_path / "archive", records))
    assert (found.culprit, found.stored, found.derived) == ("event", "21", "20")
    assert found.where == f"2026-10-01T00:00Z, usage_events {event.id}, output_text_tokens"


@pytest.mark.usefixtures("own_ledger")
def test_event_with_another_content_is_named_by_its_id(books: Books, records: list[Record]) -> None:
    event = next(one.event for one in records if one.event.subject == "acme")
    row = "* REPLACE (unhex('00112233445566778899aabbccddeeff') AS content_hash)"
    where = f"WHERE event_id = '{event.id}'"
    books.client.command(f"INSERT INTO usage_events SELECT {row} FROM usage_events {where}")
    change(books, "usage_events", f"DELETE {where} AND hex(content_hash) NOT LIKE '0011223344%'")
    found = different(audited(books))
    assert found.culprit == "event"
    assert found.where.startswith("2026-10-01T00:00Z, events of acme")
    assert event.id in found.where


@pytest.mark.usefixtures("own_ledger")
def test_event_that_was_lost_names_its_hour(books: Books, records: list[Record]) -> None:
    event = [one.event for one in records if one.event.subject == "acme"][3]
    change(books, "usage_events", f"DELETE WHERE event_id = '{event.id}'")
    found = different(audited(books))
    assert found.culprit == "event"
    assert found.where.startswith("2026-10-01T01:00Z, events of ")


@pytest.mark.usefixtures("own_ledger")
def test_row_of_a_run_that_was_changed_is_named(books: Books) -> None:
    change(
        books,
        "usage_hourly_runs",
        "UPDATE input_uncached_tokens = 7 WHERE tenant = 'acme' AND hour = '2026-10-01 02:00:00'",
    )
    found = different(audited(books))
    assert (found.culprit, found.stored, found.derived) == ("rows", "7", "200")
    assert found.where.startswith("2026-10-01T02:00Z, row search/key-1/llama-3.1-8b/")
    assert found.where.endswith(", input_uncached_tokens")


@pytest.mark.usefixtures("own_ledger")
def test_row_that_was_made_negative_is_named_too(books: Books) -> None:
    change(books, "usage_hourly_runs", "UPDATE gpu_ns = -1 WHERE tenant = 'acme'")
    found = different(audited(books))
    assert (found.culprit, found.stored, found.derived) == ("rows", "-1", "80000000")


@pytest.mark.usefixtures("own_ledger")
def test_leaf_of_the_proof_that_was_changed_is_named(books: Books) -> None:
    change(books, "run_tenants", "UPDATE events = 9 WHERE tenant = 'acme' AND requests = 2")
    found = different(audited(books))
    assert found.culprit == "proof"
    assert found.where == "2026-10-01T00:00Z, leaf in run_tenants"


def change_price(book: PriceBook) -> str:
    body = json.loads(book.canonical_json())
    body["prices"][0]["pricing"]["unit_price_e12"] += 1
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def test_price_that_was_changed_in_the_store_is_named_by_the_books_hash(books: Books) -> None:
    with books.store.begin() as connection:
        connection.execute(update(price_books).values(body=change_price(BOOK)))
    found = different(audited(books))
    assert (found.culprit, found.stored) == ("price book", BOOK.sha256())
    assert "was changed in the store" in found.derived
    changed = PriceBook.model_validate_json(change_price(BOOK))
    with books.store.begin() as connection:
        connection.execute(update(price_books).values(sha256=changed.sha256()))
    found = different(audited(books))
    assert (found.culprit, found.stored) == ("price book", BOOK.sha256())
    assert "no price book" in found.derived


def move_a_cent(lines: list[dict[str, object]]) -> None:
    amounts = [int(str(line["amount_minor"])) for line in lines]
    lines[0]["amount_minor"], lines[1]["amount_minor"] = amounts[0] + 1, amounts[1] - 1


def add_a_cent(lines: list[dict[str, object]]) -> None:
    lines[0]["amount_minor"] = int(str(lines[0]["amount_minor"])) + 1


def rate_again(lines: list[dict[str, object]]) -> None:
    rated = lines[0]["rated"]
    assert isinstance(rated, dict)
    rated["quantity"] += 1


def drop_a_line(lines: list[dict[str, object]]) -> None:
    del lines[1]


@pytest.mark.parametrize(
    ("plant", "culprit", "where"),
    [
        (move_a_cent, "rounding", ", amount_minor"),
        (add_a_cent, "rounding", ", amount_minor"),
        (rate_again, "rating", ", quantity"),
        (drop_a_line, "rating", "output_text_tokens|output"),
    ],
)
def test_line_that_was_changed_is_told_as_what_was_changed(
    books: Books, plant: Callable[[list[dict[str, object]]], None], culprit: str, where: str
) -> None:
    lines = json.loads(acme(books).canonical_json())["lines"]
    plant(lines)
    set_body(books, lines=lines)
    found = different(audited(books))
    assert (found.culprit, found.where.endswith(where)) == (culprit, True), found


@pytest.mark.parametrize(
    ("content", "culprit", "where"),
    [
        ({"total_minor": 1}, "invoice", "total_minor"),
        ({"rating_version": "rating.v0"}, "code version", "rating"),
        ({"offsets": {"usage.v1/0": 3}}, "proof", "offsets"),
        ({"events_root": "0" * 64}, "proof", "events root"),
        ({"note": "paid"}, "invoice", "note"),
        ({"id": "1" * 64}, "invoice", "id in its content"),
    ],
)
def test_content_that_was_changed_is_named(
    books: Books, content: dict[str, object], culprit: str, where: str
) -> None:
    set_body(books, **content)
    found = different(audited(books))
    assert (found.culprit, found.where) == (culprit, where)


def test_total_in_the_list_of_invoices_is_held_to_the_content(books: Books) -> None:
    with books.store.begin() as connection:
        connection.execute(
            update(invoices).where(invoices.c.tenant == "acme").values(total_minor=1)
        )
    assert different(audited(books)).where == "total in the store's list"


@pytest.mark.parametrize(
    ("values", "culprit", "where"),
    [
        ({"digest": "0" * 64}, "run", ", digest"),
        ({"rules_version": "rollup-0"}, "code version", ", rules of the roll-up"),
    ],
)
def test_header_of_a_run_that_was_changed_is_named(
    books: Books, values: dict[str, object], culprit: str, where: str
) -> None:
    with books.store.begin() as connection:
        connection.execute(update(rollup_runs).values(values))
    found = different(audited(books))
    assert (found.culprit, found.where.endswith(where)) == (culprit, True)


def test_run_that_the_store_lost_is_named(books: Books) -> None:
    with books.store.begin() as connection:
        connection.execute(rollup_runs.delete())
    found = different(audited(books))
    assert (found.culprit, found.where) == ("run", "the store")


def test_command_says_identical_and_ends_with_one_at_a_difference(
    books: Books, records: list[Record], clickhouse_url: str, tmp_path: Path
) -> None:
    archive_of(tmp_path / "archive", records)
    rentroll = Rentroll(
        {
            **os.environ,
            "RENTROLL_CLICKHOUSE_URL": clickhouse_url,
            "RENTROLL_CLICKHOUSE_DATABASE": str(books.client.database),
            "RENTROLL_STORE_URL": str(books.store.url),
            "RENTROLL_KAFKA_BOOTSTRAP": "127.0.0.1:1",
            "RENTROLL_STRIPE_API_KEY": "sk_test_unused",
            "RENTROLL_HOME": str(tmp_path),
        }
    )
    named = ("audit", "invoice", "acme", "--period", "2026-10")
    for witness in ("ledger", "archive"):
        said = rentroll.run(*named, "--from", witness)
        assert said.returncode == 0, said.stderr
        assert f"events in the {witness}: 6 events in 3 hours make 2 lines, USD 1.14" in said.stdout
    set_body(books, total_minor=115)
    said = rentroll.run("audit", "invoice", acme_id(books)[:12])
    assert said.returncode == 1
    assert "first the invoice: total_minor" in said.stdout
    assert "stored:  115\n  derived: 114" in said.stdout
    said = rentroll.run("audit", "invoice", "nobody", "--period", "2026-10")
    assert (said.returncode, "0 invoices of nobody 2026-10" in said.stderr) == (1, True)
