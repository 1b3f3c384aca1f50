"""The door asks whether a tenant with a budget may still spend, before its request runs.

The request is written as opened before anybody is asked: ids stay in the spool in their order, and
a refusal is its closing record, as for every request that is turned away. Whoever has no budget is
not asked about. Where no answer comes in time a setting says what then; a tenant who pays before
is then never served.
"""

import asyncio
import time
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from inference.door import Refusal
from inference.door_body import BodyRefusedError, asked, read_fields
from inference.door_records import DoorClose
from inference.doorkeeper import Admitted, Doorkeeper, TurnedAway, Visit
from inference.settings import InferenceSettings
from inference.worst_case import token_bounds
from schemas.units import MS_PER_S

NOT_ADMITTED = Refusal(
    503, "admission-unavailable", "Budgets cannot be checked", "try again in a little while", 1
)
_RETRY_AFTER_S = {402: 0, 429: 60, 503: 1}


class _Problem(msgspec.Struct):
    type: str
    title: str
    detail: str


class AdmissionGate:
    """Asks the reservation endpoint; one per API server process and event loop."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._url = f"{settings.admission_url.rstrip('/')}/v1/holds"
        self._session: aiohttp.ClientSession | None = None
        token_file = settings.admission_token_file
        token = token_file.read_text().strip() if token_file is not None else ""
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let connections go."""
        if self._session is not None:
            await self._session.close()

    async def admit(
        self, door: Doorkeeper, visit: Visit, body: bytes, admitted: Admitted
    ) -> Admitted | TurnedAway:
        """Let an opened request run, or turn it away after all.

        Args:
            door: Whose request it is.
            visit: As it came in.
            body: As the client sent it.
            admitted: What the door made of it.
        """
        budget = visit.bearer.tenant.budget if visit.bearer is not None else ""
        if not budget:
            return admitted
        try:
            refusal = await self._ask(door, admitted, body)
        except asyncio.CancelledError:
            # Whoever ends this task ends the request; what was opened must be closed.
            self._turn_away(door, admitted, NOT_ADMITTED)
            raise
        if refusal is NOT_ADMITTED and budget != "prepaid" and self._fails_open:
            door.ledger.count("admitted_unasked")
            return admitted
        return admitted if refusal is None else self._turn_away(door, admitted, refusal)

    @property
    def _fails_open(self) -> bool:
        return self._settings.admission_when_away == "serve"

    async def _ask(self, door: Doorkeeper, admitted: Admitted, body: bytes) -> Refusal | None:
        """None if it may run."""
        try:
            async with self._living_session().post(
                self._url, data=self._question(admitted, body), headers=self._headers
            ) as answer:
                told = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            door.ledger.count("admission_failures")
            return NOT_ADMITTED
        if answer.status == 200:  # noqa: PLR2004 - OK
            return None
        if answer.status not in (402, 429):
            door.ledger.count("admission_failures")
            return NOT_ADMITTED
        return _refusal(answer.status, told)

    def _question(self, admitted: Admitted, body: bytes) -> bytes:
        opened, settings = admitted.opened, self._settings
        try:
            fields = read_fields(body)
            parts = 1 if fields is None else asked(fields, opened.endpoint).parts
        except BodyRefusedError:
            # The door has turned such a body away before; here it only cannot be bounded.
            fields, parts = None, 1
        bounds = token_bounds(
            fields,
            body,
            parts=parts,
            context_tokens=settings.admission_context_tokens,
            template_tokens=settings.admission_template_tokens,
        )
        return msgspec.json.encode(
            {
                "request": opened.id,
                "tenant": opened.tenant,
                "project": opened.project,
                "model": opened.model,
                "service_tier": opened.service_tier,
                "region": settings.region,
                "gpu_type": settings.gpu_type,
                **bounds._asdict(),
            }
        )

    def _living_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout_s = self._settings.admission_timeout_ms / MS_PER_S
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                connector=aiohttp.TCPConnector(limit=self._settings.admission_connections),
            )
        return self._session

    @staticmethod
    def _turn_away(door: Doorkeeper, admitted: Admitted, refusal: Refusal) -> TurnedAway:
        door.ledger.count("refused")
        opened = admitted.opened
        door.ledger.closed(
            DoorClose(
                id=opened.id,
                http_status=refusal.status,
                ending="refused",
                closed_unix_ns=door.ledger.now_ns(),
                closed_mono_ns=time.monotonic_ns(),
            )
        )
        return TurnedAway(refusal, opened.id)


def _refusal(status: int, told: bytes) -> Refusal:
    """The endpoint's problem in the door's words; without one that can be read, as it stands."""
    try:
        problem = msgspec.json.decode(told, type=_Problem)
    except ValueError:
        return Refusal(status, "budget-exhausted", "The budget is used up", "ask whoever set it")
    code = problem.type.rpartition(":")[2]
    return Refusal(status, code, problem.title, problem.detail, _RETRY_AFTER_S[status])
