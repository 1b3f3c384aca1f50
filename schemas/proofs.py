"""The proof of a tenant's period: which events were billed, hour by hour, below one root."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from schemas.fields import Contract, Count, Name, Sha256
from schemas.ids import content_hash, digest_of_hashes
from schemas.merkle import merkle_root

PROOF_FORMAT: Literal["rentroll.proof.v1"] = "rentroll.proof.v1"
ContentHash = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class ProvenHour(Contract):
    """One hour of one tenant: a leaf of its period's tree.

    `digest` is SHA-256 over the sorted content hashes of the hour's events; a content hash is the
    first 16 bytes of SHA-256 over the event as it lies in the log. `events` counts client requests
    and what engines behind other doors add to them.
    """

    hour: str
    events: Count
    digest: Sha256

    def leaf(self, tenant: str) -> bytes:
        """The content of the leaf; what it is stands in it, so no other text can pass for it."""
        return f"{PROOF_FORMAT}|{tenant}|{self.hour}|{self.events}|{self.digest}".encode()


class HourContents(Contract):
    """Content hashes of all events of a tenant's hour, sorted."""

    hour: str
    hashes: tuple[ContentHash, ...]


class PeriodProof(Contract):
    """What a stranger needs to check a period, or one event in it, against the invoice's root."""

    format: Literal["rentroll.proof.v1"]
    tenant: Name
    period: Name
    invoice: Sha256
    events_root: Sha256
    hours: tuple[ProvenHour, ...]
    contents: tuple[HourContents, ...]

    def faults(self, root: str, events: Sequence[bytes] = ()) -> list[str]:
        """What is wrong with the proof, in words; nothing if it holds.

        Args:
            root: The events root that the invoice carries, from wherever it is trusted.
            events: Events as they lie in the log, which must be among the contents.
        """
        names = [one.hour for one in self.hours]
        found = [] if names == sorted(set(names)) else ["hours are not in order, each once"]
        if merkle_root([one.leaf(self.tenant) for one in self.hours]).hex() != root:
            found.append(f"the hours do not lead to the events root {root}")
        hours = {one.hour: one for one in self.hours}
        listed: set[str] = set()
        for content in self.contents:
            listed.update(content.hashes)
            digest = digest_of_hashes(map(bytes.fromhex, content.hashes))
            hour = hours.get(content.hour)
            if hour is None or (hour.events, hour.digest) != (len(content.hashes), digest):
                found.append(f"{content.hour}: its {len(content.hashes)} events are not the hour's")
        for number, event in enumerate(events, start=1):
            if content_hash(event).hex() not in listed:
                found.append(f"event {number} is not in the contents")
        return found


def events_root(tenant: str, hours: Sequence[ProvenHour]) -> str:
    """The root of a tenant's tree over its hours with usage, in order of time, as hex."""
    ordered = sorted(hours, key=lambda one: one.hour)
    return merkle_root([one.leaf(tenant) for one in ordered]).hex()
