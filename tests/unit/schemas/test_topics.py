"""Topics: every event has one, and one key."""

import pytest

from schemas.topics import (
    DEAD_LETTERS,
    MODEL_OF_TYPE,
    TOPIC_OF_TYPE,
    TOPICS,
    dead_letter_key,
    record_key,
)
from schemas.units import VALUE_BYTES_MAX


@pytest.mark.parametrize(
    ("noun_verb", "key"),
    [
        ("request.finished", "event"),
        ("engine.part.finished", "event"),
        ("usage.lost", "event"),
        ("engine.interval", "source"),
        ("capacity.owned", "source"),
        ("reservation.changed", "source"),
        ("source.opened", "source/opened"),
        ("source.closed", "source/closed"),
    ],
)
def test_record_key_follows_the_topic(noun_verb: str, key: str) -> None:
    assert record_key(f"io.rentroll.{noun_verb}.v1", "event", "source") == key


def test_every_event_type_has_a_topic_and_a_model() -> None:
    assert len(MODEL_OF_TYPE) == 8
    assert set(TOPIC_OF_TYPE) == set(MODEL_OF_TYPE)


def test_unknown_type_has_no_key() -> None:
    with pytest.raises(KeyError):
        record_key("io.rentroll.request.finished.v2", "event", "source")


def test_a_dead_letter_is_keyed_by_where_the_record_lay() -> None:
    assert dead_letter_key("usage.v1", 3, 17) == "usage.v1/3/17"


def test_the_longest_value_fits_a_topic_even_in_base64() -> None:
    for topic in TOPICS:
        assert int(topic.config()["max.message.bytes"]) > VALUE_BYTES_MAX
    assert DEAD_LETTERS.max_message_bytes > VALUE_BYTES_MAX * 4 // 3 + 4_096


def test_brokers_stamp_records_themselves() -> None:
    assert {topic.config()["message.timestamp.type"] for topic in TOPICS} == {"LogAppendTime"}
