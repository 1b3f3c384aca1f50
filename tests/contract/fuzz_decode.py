"""Coverage-guided fuzzing of the decoder against the reference: `make fuzz-decode SECONDS=600`.

Not a test that pytest collects: it runs until time is up, or until a difference, whose input
libFuzzer then keeps beside the corpus.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["schemas", "streams"]):
    from schemas.topics import TOPIC_OF_TYPE
    from streams.columns import warm_up
    from tests.support.events import OCTOBER_MS, HostScript
    from tests.support.examples import INVALID, example_files, load
    from tests.support.verdicts import (
        EVENT_EXAMPLES,
        assert_same_verdict,
        at,
        compact,
        places_in,
    )

TOPICS = ("usage.v1", "capacity.v1", "control.v1")
GOOD = HostScript("beside").request(OCTOBER_MS).value
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 1.0, 1e400, -0.0, [], {}, "", "\n"),
    *("a\n", "ä", "\x00", "A" * 129, "0" * 40, "2026-10-01T00:00:00.000Z", "stop", "refused"),
)


def judge(value: bytes) -> None:
    """Alone and among good ones, on its own topic and on one of the others."""
    assert_same_verdict([GOOD, value, GOOD])
    assert_same_verdict([value], TOPICS[len(value) % len(TOPICS)])


def mutate(value: bytes, longest: int, seed: int) -> bytes:
    """Change bytes, or a place in the document that the bytes hold."""
    luck = random.Random(seed)
    if luck.random() < 0.4:
        return bytes(atheris.Mutate(value, longest))
    try:
        document = json.loads(value)
        place = luck.choice([path for path in places_in(document) if path])
    except (ValueError, RecursionError, IndexError):
        document = load(luck.choice(EVENT_EXAMPLES))
        place = luck.choice([path for path in places_in(document) if path])
    parent, key = at(document, place[:-1]), place[-1]
    _change(parent, key, luck)
    return compact(document)[:longest]


def _change(parent: Any, key: Any, luck: random.Random) -> None:
    old, how = parent[key], luck.randrange(6)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[luck.choice([str(key) + "x", "id", "gpus", "data"])] = luck.choice(STRANGE)
    elif how == 2 and type(old) is int:
        parent[key] = old + luck.choice((-1, 1, 2**40, -(2**40)))
    elif how == 3 and isinstance(old, str):
        parent[key] = luck.choice((old + "\n", old.upper(), old[:-1], old + old, " " + old))
    elif how == 4 and isinstance(parent, list):
        parent.append(old)
    else:
        parent[key] = luck.choice(STRANGE)


def main() -> None:
    corpus = Path(sys.argv[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for name in EVENT_EXAMPLES:
        (corpus / f"valid-{name}").write_bytes(compact(load(name)))
    for path in example_files(INVALID):
        (corpus / f"invalid-{path.stem}").write_bytes(path.read_bytes())
    warm_up()
    assert set(TOPICS) == {topic.name for topic in TOPIC_OF_TYPE.values()}
    atheris.Setup(sys.argv, judge, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
