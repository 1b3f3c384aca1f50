"""Holds a story to what its clients saw, and shows it: per terminal path, per kill, in total."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from inference.door_records import carried
from schemas.ids import parse_ms
from schemas.units import NS_PER_MS
from schemas.usage import RequestFinished
from tests.engine.served.chaos_kills import Kill
from tests.engine.served.chaos_traffic import NAMELESS
from tests.engine.served.traffic import Seen
from tests.support.served_story import Story, Witness

LEFT = {
    "cut at once": "client gone: stream, before its first token",
    "stream cut": "client gone: stream, in the middle",
    "chat cut": "client gone: stream, in the middle",
    "cut near the end": "client gone: stream, just before its end",
    "gone": "client gone: not a stream, late",
    "gone soon": "client gone: not a stream, early",
}


WHOLE = {"stop", "length", "abort"}
"""Outcomes of an answer that ended by itself; `abort` says that the server was ending."""


@dataclass
class Path:
    """One way for a request to end: how many, and what both sides counted."""

    requests: int = 0
    events: int = 0
    compared: int = 0
    clients_tokens: int = 0
    events_tokens: int = 0
    gpu_ns: int = 0
    intervals: set[tuple[str, int]] = field(default_factory=set)


class ChaosReport:
    """What a run comes to; `findings` is empty if every promise was kept."""

    def __init__(
        self, story: Story, witness: Witness, seen: Sequence[Seen], kills: Sequence[Kill]
    ) -> None:
        self.story = story
        self.witness = witness
        self.kills = kills
        self.findings = list(story.check(witness))
        self.paths: dict[str, Path] = defaultdict(Path)
        self._seen = {one.label: one for one in seen}
        self._by_label = {one.client_request_id: one.id for one in witness.opened.values()}
        if len(self._by_label) != len(witness.opened):
            self.findings.append("one label was opened twice: a request was counted twice")
        self._interval_of = {
            (one.interval.engine, ordinal): one
            for one in story.residues
            for ordinal in range(one.interval.ordinal_start + 1, one.interval.ordinal_end + 1)
        }
        for label in self._by_label.keys() - self._seen.keys():
            self.findings.append(f"no client has sent {label!r}")
        for one in seen:
            self._hold(one)

    def compared(self) -> int:
        """Requests whose tokens the client knew, too."""
        return sum(path.compared for path in self.paths.values())

    def _hold(self, seen: Seen) -> None:
        request = self._by_label.get(seen.label)
        if request is None:
            self._hold_unopened(seen)
            return
        if seen.kind in NAMELESS:
            self.findings.append(f"{seen.kind} of {seen.label} has an event: {request}")
        if seen.request and seen.request != carried(request):
            self.findings.append(f"{seen.label} was told {seen.request}, its event is {request}")
        event = self.story.finished.get(request)
        path = self.paths[self._path_of(seen, event)]
        path.requests += 1
        if event is None:
            return
        path.events += 1
        path.gpu_ns += event.data.gpu_ns
        for part in event.data.parts:
            one = self._interval_of.get((part.engine, part.ordinal))
            if one is not None:
                path.intervals.add((one.interval.engine, one.interval.start_unix_ns))
        if event.subject != seen.tenant:
            self.findings.append(f"{seen.label} of {seen.tenant} is billed to {event.subject}")
        self._compare(seen, event, path)

    def _hold_unopened(self, seen: Seen) -> None:
        """No door has opened it: nobody was told an id, and nobody got an answer."""
        self.paths["no key, no route, or it never reached a door"].requests += 1
        if seen.request or seen.status in range(200, 300) or seen.output_tokens is not None:
            self.findings.append(f"{seen} was answered, and no door has opened it")

    def _compare(self, seen: Seen, event: RequestFinished, path: Path) -> None:
        data = event.data
        output = data.output_text_tokens + data.output_reasoning_tokens
        prompt = data.input_uncached_tokens + data.input_cache_read_tokens
        if seen.cut or seen.broken:
            closed = self.witness.closed.get(event.id)
            if closed is not None and (seen.token_ids or 0) > data.generated_tokens:
                self.findings.append(
                    f"{seen.label} ({seen.kind}, {data.outcome}) read {seen.token_ids} tokens,"
                    f" its event has generated {data.generated_tokens}"
                )
            return
        if seen.output_tokens is not None and seen.input_tokens is not None:
            if event.id in self.witness.closed and data.outcome not in WHOLE:
                self.findings.append(f"{seen} was answered whole, its event says {data.outcome}")
            clients, events = seen.input_tokens + seen.output_tokens, prompt + output
            fits = (prompt, output) == (seen.input_tokens, seen.output_tokens)
        elif seen.token_ids is not None:
            clients, events = seen.token_ids, output
            fits = clients == events
        else:
            return
        path.compared += 1
        path.clients_tokens += clients
        path.events_tokens += events
        if not fits:
            self.findings.append(
                f"{seen.label} ({seen.kind}, {data.outcome}, parts {len(data.parts)}) counted"
                f" input={seen.input_tokens} output={seen.output_tokens} ids={seen.token_ids},"
                f" its event {event.id} input={prompt} output={output}"
            )

    def _path_of(self, seen: Seen, event: RequestFinished | None) -> str:
        if event is None:
            return "NO EVENT"
        outcome = event.data.outcome
        kill = self._kill_of(event)
        struck = f", {kill.name}" if kill is not None else ""
        if outcome == "refused":
            return f"refused, {event.data.http_status}"
        if outcome in {"engine_death", "error"}:
            return f"{outcome}{struck}"
        told = LEFT.get(seen.kind, "client gone") if outcome == "client_gone" else outcome
        if outcome == "stop" and "stop string" in seen.kind:
            told = "stop string"
        return f"{told}{', ended after ' + kill.name if kill is not None else ''}"

    def _kill_of(self, event: RequestFinished) -> Kill | None:
        """The one during which it was open; of a killed engine the end is only known roughly."""
        door = self.witness.door_of[event.id]
        admitted_ns = self.witness.opened[event.id].admitted_unix_ns
        ended_ns = (parse_ms(event.data.finished_at) + 1) * NS_PER_MS
        ill = event.data.outcome in {"engine_death", "error"}
        for kill in self.kills:
            open_then = admitted_ns <= kill.at_ns and (ill or kill.at_ns <= ended_ns)
            if door in kill.doors and open_then and (kill.ends_the_server or not ill):
                return kill
        return None

    # Tables.

    def show(self, console: Console) -> None:
        console.print(self._paths_table())
        console.print(self._kills_table())
        console.print(self._totals())
        for finding, times in Counter(self.findings).items():
            console.print(f"[red]finding:[/] {finding}" + (f" ({times}x)" if times > 1 else ""))

    def _residue_ns(self, path: Path) -> int:
        return sum(
            abs(one.owned_ns) + abs(one.parts_ns)
            for one in self.story.residues
            if (one.interval.engine, one.interval.start_unix_ns) in path.intervals
        )

    def _paths_table(self) -> Table:
        table = Table(title="Per terminal path", title_justify="left")
        table.add_column("path")
        for name in ("requests", "events", "compared", "tokens: clients", "tokens: events"):
            table.add_column(name, justify="right")
        for name in ("GPU ms", "intervals", "residue ns"):
            table.add_column(name, justify="right")
        for name in sorted(self.paths):
            one = self.paths[name]
            figures = (one.requests, one.events, one.compared, one.clients_tokens)
            rest = (one.events_tokens, one.gpu_ns // NS_PER_MS, len(one.intervals))
            cells = [f"{figure:,}" for figure in (*figures, *rest, self._residue_ns(one))]
            table.add_row(name, *cells)
        return table

    def _kills_table(self) -> Table:
        table = Table(title="Per kill", title_justify="left")
        for name in ("", "what", "at request", "exit", "back after s", "open then"):
            table.add_column(name, justify="right" if name != "what" else "left")
        for name in ("engine death", "error", "unaccounted ns", "lost"):
            table.add_column(name, justify="right")
        for number, kill in enumerate(self.kills, 1):
            hit = [
                event.data.outcome
                for event in self.story.finished.values()
                if event.id in self.witness.door_of and self._kill_of(event) is kill
            ]
            lost = [
                request
                for request, door in self.witness.door_of.items()
                if door in kill.doors and request not in self.story.finished
            ]
            counts = (len(hit), hit.count("engine_death"), hit.count("error"))
            status = "" if kill.status is None else str(kill.status)
            table.add_row(
                str(number),
                kill.name,
                str(kill.at_request),
                status,
                f"{kill.away_s:.1f}",
                *map(str, counts),
                f"{self._unaccounted_ns(kill):,}",
                str(len(lost)),
            )
        return table

    def _unaccounted_ns(self, kill: Kill) -> int:
        if not kill.ends_the_server:
            return 0
        return sum(
            one.unaccounted_ns
            for engine in kill.engines
            for one in self.story.intervals.get(engine, [])
        )

    def _totals(self) -> str:
        residues = self.story.residues
        synthesized = [one for one in residues if one.interval.synthesized]
        owned_ns = sum(one.interval.owned_ns for one in residues)
        unaccounted_ns = sum(one.interval.unaccounted_ns for one in residues)
        outcomes = Counter(event.data.outcome for event in self.story.finished.values())
        told = []
        told.append(
            f"{len(self.witness.opened):,} requests opened by"
            f" {len(set(self.witness.door_of.values()))} doors,"
            f" {len(self.story.finished):,} events: {dict(outcomes)}"
        )
        told.append(f"{self.compared():,} requests counted by their clients, too")
        told.append(
            f"{len(self.story.gpu_ns):,} parts of {len(self.witness.boots)} engine boots;"
            f" {len(residues):,} intervals, {len(synthesized)} of them synthesized;"
            f" {sum(not one.is_zero for one in residues)} with a residue"
        )
        told.append(f"unaccounted for: {unaccounted_ns:,} ns of {owned_ns:,} ns owned")
        told.append(
            f"{len(self.story.sources)} sources; {self.story.copies:,} copies on Kafka;"
            f" {self.story.lost} declared lost"
        )
        return "\n".join([*told, f"{len(self.findings)} findings"])
