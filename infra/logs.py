"""Log lines of our processes, as JSON or text, and never with a secret in them."""

import json
import logging
import re
import sys
from collections.abc import Iterable
from typing import Literal, TextIO
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from infra.settings import InfraSettings

Format = Literal["json", "text"]
HIDDEN = "***"
SECRET_LENGTH_MIN = 4
"""A shorter one would black out half of every line; URLs are cleaned whatever is in them."""

_PLAIN = frozenset(vars(logging.makeLogRecord({})))
_URL_SECRET = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/@:\"']*:)[^\s\"'/?#]*(?=@)")
_TOKENS = re.compile(r"\b(?:[sr]k_(?:live|test)|whsec|rr_[a-z2-7]{16})_[A-Za-z0-9_-]{8,}")
"""What Stripe and we ourselves give out as secrets has a form that shows."""


class Redaction:
    """Takes secrets out of text: those it was told, and whatever has the form of one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        told = {form for secret in secrets for form in _forms(secret)}
        known = sorted((one for one in told if len(one) >= SECRET_LENGTH_MIN), key=len)
        # The longest first: one may be the beginning of another.
        self._known = re.compile("|".join(map(re.escape, reversed(known)))) if known else None

    def clean(self, text: str) -> str:
        """The text with `***` where a secret was."""
        text = _URL_SECRET.sub(rf"\g<before>{HIDDEN}", text)
        text = _TOKENS.sub(HIDDEN, text)
        return self._known.sub(HIDDEN, text) if self._known is not None else text


def redaction(settings: InfraSettings) -> Redaction:
    """For the secrets of these settings: passwords, keys, and those within URLs."""
    secrets = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            secrets.append(value.get_secret_value())
        elif isinstance(value, str) and "://" in value:
            secrets.append(urlsplit(value).password or "")
    return Redaction(secrets)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the `extra` fields."""

    def __init__(self, redaction: Redaction | None = None) -> None:
        super().__init__()
        self._redaction = redaction or Redaction()

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return self._redaction.clean(json.dumps(line, default=str))


class TextLines(logging.Formatter):
    """One line as people read it: level, message, and the `extra` fields behind it."""

    def __init__(self, redaction: Redaction | None = None) -> None:
        super().__init__("%(levelname)s %(message)s")
        self._redaction = redaction or Redaction()

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        extra = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        extra.pop("message", None)
        told = " ".join(f"{name}={value}" for name, value in extra.items())
        return self._redaction.clean(f"{text} {told}".rstrip())


def start_logs(
    settings: InfraSettings, *, unset: Format, stream: TextIO | None = None, quiet: bool = False
) -> None:
    """Send every logger's lines to `stream`; the libraries only from WARNING on.

    Args:
        settings: Their `log_format` wins; their secrets are in no line.
        unset: The format where they name none.
        stream: Standard error if left out.
        quiet: Our own lines too only from WARNING on.
    """
    _start(settings.log_format or unset, redaction(settings), stream or sys.stderr, quiet=quiet)


def log_as_json(stream: TextIO = sys.stderr, *, quiet: bool = False) -> None:
    """As `start_logs`, in JSON, with the secrets of the environment's settings taken out."""
    _start("json", redaction(InfraSettings()), stream, quiet=quiet)


def _start(form: Format, redaction: Redaction, stream: TextIO, *, quiet: bool) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(redaction) if form == "json" else TextLines(redaction))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # It warns whenever a commit takes longer than the time between two.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    for ours in ("rentroll", "inference", "__main__"):
        logging.getLogger(ours).setLevel(logging.WARNING if quiet else logging.INFO)


def _forms(secret: str) -> set[str]:
    """A secret as it may stand in a text: as it is, in a URL, within JSON."""
    plain = unquote(secret)
    return {secret, plain, quote(plain, safe=""), json.dumps(secret)[1:-1], json.dumps(plain)[1:-1]}
