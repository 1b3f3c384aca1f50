"""Check a Rentroll proof without Rentroll: python3 verify.py PROOF.json EVENTS_ROOT [EVENT ...].

EVENTS_ROOT stands on the invoice and its statement. An EVENT is a file that holds one event as it
lies in the log. Ends with status 0 if everything holds; else says what does not.
"""

import hashlib
import json
import sys
from pathlib import Path


def sha256(data):
    return hashlib.sha256(data).digest()


def merkle_root(leaves):
    """RFC 9162, 2.1: leaves and nodes are hashed behind a 0 and a 1."""
    level = [sha256(b"\0" + leaf) for leaf in leaves]
    while len(level) > 1:
        pairs = [sha256(b"\1" + level[i] + level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    return level[0] if level else sha256(b"")


def faults(proof, root, events):
    names = [hour["hour"] for hour in proof["hours"]]
    if names != sorted(set(names)):
        yield "hours are not in order, each once"
    about = f"{proof['format']}|{proof['tenant']}"
    leaves = [f"{about}|{one['hour']}|{one['events']}|{one['digest']}" for one in proof["hours"]]
    if merkle_root([leaf.encode() for leaf in leaves]).hex() != root:
        yield f"the hours do not lead to the events root {root}"
    hours = {hour["hour"]: (hour["events"], hour["digest"]) for hour in proof["hours"]}
    listed = set()
    for content in proof["contents"]:
        hashes = sorted(content["hashes"])
        listed.update(hashes)
        digest = sha256(b"".join(map(bytes.fromhex, hashes))).hex()
        if hours.get(content["hour"]) != (len(hashes), digest):
            yield f"{content['hour']}: its {len(hashes)} events are not the hour's"
    for number, event in enumerate(events, start=1):
        if sha256(event)[:16].hex() not in listed:
            yield f"event {number} is not in the contents"


def main(file, root, *events):
    proof = json.loads(Path(file).read_text(encoding="utf-8"))
    wrong = list(faults(proof, root, [Path(event).read_bytes().rstrip(b"\n") for event in events]))
    count = sum(len(content["hashes"]) for content in proof["contents"])
    where = f"{len(proof['contents'])} of {len(proof['hours'])} hours with usage"
    holds = f"holds: {count} events in {where} of {proof['tenant']} in {proof['period']}"
    print(*wrong or [holds], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[2:] else sys.exit(__doc__)
