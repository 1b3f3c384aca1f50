"""End users' labels: kept beside their pseudonyms, erased on request, on both databases."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from inference.end_user_labels import LabelNotes
from inference.key_export import collect_labels
from infra.api_keys import KeyTerms
from infra.pseudonyms import END_USER, pseudonym
from infra.store.api_keys import CREATION_ENTROPY_BYTES, create_key, list_tenant_access
from infra.store.decisions import decisions_after
from infra.store.end_users import EndUser, Erasure, erase, note_end_users, pseudonyms_of
from schemas.errors import ContractError

TERMS = KeyTerms(
    tenant="acme", project="p", label="", scopes=("inference",), service_tiers=("standard",)
)
NEW_KEY = bytes(range(32))


@pytest.fixture
def tenant_key(store: Engine) -> str:
    entropy = b"\1" * CREATION_ENTROPY_BYTES
    create_key(store, TERMS, created_by="ada", now_ms=1_000, entropy=entropy)
    return list_tenant_access(store)[0].tenant_key


def seen(tenant_key: str, *labels: str) -> list[EndUser]:
    return [EndUser("acme", pseudonym(tenant_key, END_USER, one), one, 1_000) for one in labels]


def ask(label: str | None = "mona", why: str = "request R-4") -> Erasure:
    return Erasure("acme", label, "ann", why, 2_000)


def test_label_that_a_door_saw_is_kept_once(store: Engine, tenant_key: str, tmp_path: Path) -> None:
    host = tmp_path / "host"
    notes = LabelNotes(host)
    (mona,) = seen(tenant_key, "mona")
    for _ in range(2):
        notes.note("acme", mona.pseudonym, "mona", 10**9)
    (file,) = host.rglob("*.jsonl")
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text().splitlines()) == 1

    assert collect_labels(store, host) == 1

    assert [one for one in host.rglob("*") if one.is_file()] == []
    assert collect_labels(store, host) == 0
    assert pseudonyms_of(store, "acme", "mona") == [mona.pseudonym]


def test_erased_end_user_can_no_longer_be_linked_and_others_can(
    store: Engine, tenant_key: str
) -> None:
    mona, theo = seen(tenant_key, "mona", "theo")
    note_end_users(store, [mona, theo])

    assert erase(store, ask(), entropy=NEW_KEY) == 1

    assert mona.pseudonym not in pseudonyms_of(store, "acme", "mona")
    assert theo.pseudonym in pseudonyms_of(store, "acme", "theo")
    assert list_tenant_access(store)[0].tenant_key == NEW_KEY.hex()
    (kept,) = decisions_after(store, 0)
    assert (kept.decided_by, kept.reason) == ("ann", "request R-4")
    assert "mona" not in kept.subject
    assert mona.pseudonym not in kept.subject


def test_file_that_is_read_after_an_erasure_links_nobody_again(
    store: Engine, tenant_key: str, tmp_path: Path
) -> None:
    (mona,) = seen(tenant_key, "mona")
    LabelNotes(tmp_path).note("acme", mona.pseudonym, "mona", 10**9)
    erase(store, ask(), entropy=NEW_KEY)

    assert collect_labels(store, tmp_path) == 0

    assert mona.pseudonym not in pseudonyms_of(store, "acme", "mona")


def test_every_end_user_of_a_tenant_is_erased_at_once(store: Engine, tenant_key: str) -> None:
    users = seen(tenant_key, "mona", "theo")
    note_end_users(store, users)
    assert erase(store, ask(None), entropy=NEW_KEY) == 2
    for one in users:
        assert one.pseudonym not in pseudonyms_of(store, "acme", one.label)


def test_erased_bytes_are_in_no_file_of_the_store(store: Engine, tenant_key: str) -> None:
    if store.dialect.name != "sqlite":
        return
    note_end_users(store, seen(tenant_key, "mona-lisa-17"))
    erase(store, ask("mona-lisa-17"), entropy=NEW_KEY)
    folder = Path(str(store.url.database)).parent
    left = b"".join(one.read_bytes() for one in folder.glob("store.db*"))
    assert NEW_KEY.hex().encode() in left
    assert b"mona-lisa-17" not in left
    assert tenant_key.encode() not in left


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Erasure("globex", "mona", "ann", "R-4", 1), "globex never had an API key"),
        (Erasure("acme", "mona", " ", "R-4", 1), "who: an erasure says"),
        (Erasure("acme", "mona", "ann", "for mona", 1), "why: it names the end user"),
    ],
)
def test_erasure_that_cannot_be_is_refused(
    store: Engine, tenant_key: str, asked: Erasure, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        erase(store, asked, entropy=NEW_KEY)
    assert list_tenant_access(store)[0].tenant_key == tenant_key
    with store.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM decisions")).scalar_one() == 0
