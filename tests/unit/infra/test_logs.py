"""No line of a log holds a secret, whatever it is about and whatever form the secret has."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from infra.logs import HIDDEN, Redaction, log_as_json, redaction, start_logs
from infra.settings import InfraSettings

PLANTED = 'p@ss w"rd/ä'
IN_URL = "p%40ss%20w%22rd%2F%C3%A4"
SETTINGS = InfraSettings.model_validate(
    {
        "kafka_password": PLANTED,
        "kafka_key_password": "key-password-1",
        "stripe_api_key": "sk_live_0123456789abcdef",
        "clickhouse_url": f"http://default:{IN_URL}@127.0.0.1:8123/ledger",
        "store_url": "postgresql+psycopg://billing:store-secret@127.0.0.1/billing",
    }
)
SECRETS = (PLANTED, IN_URL, "key-password-1", "sk_live_0123456789abcdef", "store-secret")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def leaked(text: str) -> list[str]:
    forms = {form for secret in SECRETS for form in (secret, json.dumps(secret)[1:-1])}
    return [form for form in forms if form in text]


@pytest.mark.parametrize("form", ["json", "text"])
def test_planted_secrets_are_in_no_line_wherever_they_were_put(form: str) -> None:
    stream = io.StringIO()
    settings = SETTINGS.model_copy(update={"log_format": form})
    start_logs(settings, unset="json", stream=stream)
    log = logging.getLogger("rentroll.ingest")
    for secret in SECRETS:
        log.info("connecting with %s", secret)
        log.warning("trying again", extra={"why": f"refused: {secret}", "given": {"a": [secret]}})
        log.error("failed", exc_info=ValueError(f"cannot use {secret}"))
    log.info("urls", extra={"one": SETTINGS.clickhouse_url, "two": SETTINGS.store_url})
    lines = stream.getvalue()
    assert leaked(lines) == []
    assert HIDDEN in lines
    assert "trying again" in lines
    if form == "json":
        assert all(json.loads(line)["level"] for line in lines.splitlines())


def test_password_of_any_url_is_hidden_though_no_setting_names_it() -> None:
    clean = Redaction().clean
    assert clean("at kafka://u:secret@host:1/x?y=z") == f"at kafka://u:{HIDDEN}@host:1/x?y=z"
    assert clean("http://127.0.0.1:8123/a@b") == "http://127.0.0.1:8123/a@b"
    assert clean("postgresql://:pw@h/db") == f"postgresql://:{HIDDEN}@h/db"
    assert clean("a time 10:30, a mail a@b.c") == "a time 10:30, a mail a@b.c"


def test_keys_that_show_by_their_form_are_hidden() -> None:
    key = "rr_abcdefgh234567ij_" + "x" * 43
    assert Redaction().clean(f"Authorization: Bearer {key}") == f"Authorization: Bearer {HIDDEN}"
    assert Redaction().clean("whsec_abcdefgh12345678") == HIDDEN


def test_very_short_secret_does_not_black_out_every_line() -> None:
    assert Redaction(["a"]).clean("a plain line") == "a plain line"


def test_settings_show_no_secret_of_their_own() -> None:
    hidden = SETTINGS.model_copy(update={"clickhouse_url": None, "store_url": None})
    assert leaked(repr(hidden) + str(hidden)) == []
    assert leaked(redaction(SETTINGS).clean(repr(SETTINGS))) == []


def test_json_is_what_workers_write_unless_settings_say_otherwise() -> None:
    stream = io.StringIO()
    log_as_json(stream)
    logging.getLogger("rentroll.ingest").info("ingested", extra={"rows": 3})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["rows"], line["logger"]) == ("ingested", 3, "rentroll.ingest")
    logging.getLogger("kafka").info("not for us")
    assert stream.getvalue().count("\n") == 1
