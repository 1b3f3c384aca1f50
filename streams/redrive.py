"""Sends dead letters back to the topics they came from, each once: intend, look, send."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.kafka.records import Lying, TopicRecords
from infra.store.decisions import Decider, Decision, append_decisions
from schemas.control import DeadLetter
from schemas.topics import DEAD_LETTERS, dead_letter_key, record_key
from streams.completeness_decisions import REDRIVE_DEAD_LETTER
from streams.dead_letter_book import Letter, in_ledger, is_whole, place_decided, value_of
from streams.decode import decode
from streams.sink_needs import Hook, no_hook

BATCH_LETTERS = 50
"""Letters in memory at once; each may hold a record of a megabyte."""
Outcome = Literal["sent", "already there", "not sent"]


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of one letter; `detail` says where it lies, or why it was not sent."""

    letter: Letter
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class Intended:
    """A letter that may go, its bytes, and from which offsets on a copy of it is looked for."""

    letter: Letter
    value: bytes
    after: Mapping[int, int]


def redrive(
    client: Client,
    store: Engine,
    log: TopicRecords,
    some: Sequence[Letter],
    decider: Decider,
    *,
    hook: Hook = no_hook,
) -> Iterator[Redriven]:
    """Send letters back, byte for byte; sent again, nothing more is sent.

    The intention comes first, with the log's ends of that moment, into the decision log. Then the
    ledger, and the log behind those ends, are searched for the same bytes; only if they are in
    neither, they are sent. So a redrive that was killed anywhere is finished by the next one.

    Args:
        client: The ledger.
        store: The billing store.
        log: The broker's topics.
        some: Dead letters in any state; a discarded one is not sent.
        decider: Who wants it, and why.
        hook: Called between the steps.

    Raises:
        ServerError: If the broker cannot be used; what was intended is finished by another call.
    """
    for start in range(0, len(some), BATCH_LETTERS):
        batch = some[start : start + BATCH_LETTERS]
        read = [(letter, value_of(client, letter)) for letter in batch]
        fit: list[tuple[Letter, bytes]] = []
        for letter, value in read:
            why = why_not(letter, value)
            if why:
                yield Redriven(letter, "not sent", why)
            else:
                fit.append((letter, value))
        hook("before-intent")
        intended = _intend(store, log, fit, decider)
        hook("after-intent")
        yield from _send_missing(client, log, intended, hook)


def why_not(letter: Letter, value: bytes) -> str:
    """Why a letter cannot go back; empty if it can. It would only be refused again, or is settled.

    Its bytes cannot be mended here: their hash is under its source's signature, so other bytes
    would be an event that nobody signed, and never billed.
    """
    if letter.decision is not None and letter.state == "discarded":
        return f"discarded by {letter.decision.decided_by}: {letter.decision.reason}"
    if not is_whole(letter, value):
        return f"only the first {len(value)} of its bytes were kept"
    refused = decode(letter.topic, letter.partition, [letter.offset], [value]).refused
    return f"still refused, {refused[0].reason}: {refused[0].detail}" if refused else ""


def _intend(
    store: Engine, log: TopicRecords, fit: Sequence[tuple[Letter, bytes]], decider: Decider
) -> list[Intended]:
    """Write down that these will be sent, unless it is written already."""
    ends = {topic: log.ends(topic) for topic in {letter.topic for letter, _ in fit}}
    new = [
        decider.on(REDRIVE_DEAD_LETTER, letter.subject(after=_named(ends[letter.topic])))
        for letter, _ in fit
    ]
    decided = append_decisions(store, new, once=place_decided)
    return [
        Intended(letter, value, _after(decision))
        for (letter, value), decision in zip(fit, decided, strict=True)
    ]


def _send_missing(
    client: Client, log: TopicRecords, intended: Sequence[Intended], hook: Hook
) -> Iterator[Redriven]:
    arrived = in_ledger(client, [one.letter for one in intended])
    missing = [one for one in intended if one.letter.content_sha256 not in arrived]
    lying = _lying(log, missing)
    to_send: dict[str, dict[str, Intended]] = defaultdict(dict)
    for one in missing:
        if one.letter.content_sha256 not in lying:
            to_send[one.letter.topic].setdefault(one.letter.content_sha256, one)
    sent: dict[str, str] = {}
    for topic, by_content in to_send.items():
        hook("before-send")
        records = [(_key(one), one.value) for one in by_content.values()]
        for content, (partition, offset) in zip(
            by_content, log.append(topic, records), strict=True
        ):
            sent[content] = f"{topic}/{partition}/{offset}"
        hook("after-send")
    for one in intended:
        content = one.letter.content_sha256
        if content in sent:
            yield Redriven(one.letter, "sent", sent[content])
        else:
            where = "in the ledger" if content in arrived else lying[content]
            yield Redriven(one.letter, "already there", where)


def _lying(log: TopicRecords, missing: Sequence[Intended]) -> dict[str, str]:
    """Which contents lie in the log behind their intention already, and where."""
    found: dict[str, str] = {}
    by_topic: dict[str, list[Intended]] = defaultdict(list)
    for one in missing:
        by_topic[one.letter.topic].append(one)
    for topic, some in by_topic.items():
        partitions = set().union(*(one.after for one in some))
        after = {part: min(one.after.get(part, 0) for one in some) for part in partitions}
        found |= copies_among(some, topic, log.behind(topic, after))
    return found


def copies_among(some: Sequence[Intended], topic: str, records: Iterable[Lying]) -> dict[str, str]:
    """Which of some intended contents are among records of their topic, and where the last lies.

    A record before a letter's own intention is none of its copies, nor is a refused original:
    records are read from the oldest intention on, and others were refused since.
    """
    found: dict[str, str] = {}
    lengths = {len(one.value) for one in some}
    originals = {one.letter.place for one in some}
    by_content: dict[str, list[Intended]] = defaultdict(list)
    for one in some:
        by_content[one.letter.content_sha256].append(one)
    for record in records:
        if len(record.value) not in lengths:
            continue
        content = hashlib.sha256(record.value).hexdigest()
        place = f"{topic}/{record.partition}/{record.offset}"
        intended = by_content.get(content, ())
        behind = any(record.offset >= one.after.get(record.partition, 0) for one in intended)
        if behind and place not in originals:
            found[content] = place
    return found


def _key(one: Intended) -> str:
    """The key that the record had: it decides the partition, and what compaction keeps."""
    if one.letter.topic == DEAD_LETTERS.name:
        inner = DeadLetter.model_validate_json(one.value)
        return dead_letter_key(inner.topic, inner.partition, inner.offset)
    event = json.loads(one.value)
    return record_key(event["type"], event["id"], event["source"])


def _named(ends: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): end for partition, end in sorted(ends.items())}


def _after(decision: Decision) -> dict[int, int]:
    ends: dict[str, int] = json.loads(decision.subject)["after"]
    return {int(partition): end for partition, end in ends.items()}
