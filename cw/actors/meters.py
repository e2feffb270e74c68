"""Meters: what an executor and a gateway write down of what was used, and who sends it on.

An executor notes that an action begins before the device has it, and what it used before its
result is told. A batch that tenants share is split by their slots, to the nanosecond; padding is
paid by those who rode. LOADs and the time that weights lie in pages are the model's owner's.
Residency is written down as it goes (`TICK_NS`), so that a kill loses no more of it than that.

A gateway notes how each request ended before the answer leaves it.

Neighbours: `cw/metering/journal.py` (the file), `executor.py` and `gateway.py` (who call this),
`ControllerActor.take_usage` (where it goes).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.queued import Ended, Queued
from cw.errors import CwError
from cw.messages import (
    MODEL_OWNER,
    Action,
    Answer,
    FailureKind,
    Incarnation,
    Infer,
    Load,
    ModelId,
    ModelSpec,
    Outcome,
    TenantId,
    Unload,
    UsageBatch,
    UsageEntry,
)
from cw.metering.journal import Journal, read_earlier
from cw.units import MS, SECOND

logger = logging.getLogger(__name__)

TICK_NS: Final = 10 * SECOND
"""So much residency at most is lost with a process that is killed."""
SEND_S: Final = 1.0
"""From one batch of records to the next; a full one is followed at once."""
BATCH_RECORDS: Final = 2000
"""Records in one call: some 200 kB."""
_HOUR_S: Final = 3600


def hour_now() -> int:
    """Say which hour since 1970 it is."""
    return int(time.time()) // _HOUR_S


def split_ns(gpu_ns: int, tenants: list[TenantId]) -> dict[TenantId, int]:
    """Split a batch's time by slots, so that the parts' sum is the whole.

    Args:
        gpu_ns: Of the whole batch.
        tenants: One entry for each slot that ran.
    """
    slots = Counter(tenants)
    parts, given_ns, seen = {}, 0, 0
    for tenant_id, count in sorted(slots.items()):
        seen += count
        upto_ns = gpu_ns * seen // len(tenants)
        parts[tenant_id] = upto_ns - given_ns
        given_ns = upto_ns
    return parts


@attrs.define(eq=False)
class ExecutorMeter:
    """What one executor writes down.

    Args:
        journal: Where.
        hour: Says which hour it is.
    """

    journal: Journal
    hour: Callable[[], int] = hour_now
    _resident: dict[ModelId, tuple[ModelSpec, int]] = attrs.field(factory=dict, init=False)
    """Since when (ns of this process's clock) weights lie in pages, and whose."""

    def began(self, queued: Queued, spec: ModelSpec | None) -> None:
        """Note that an action begins: INFERs of requests, and LOADs."""
        action = queued.action
        if spec is None or not _is_metered(action):
            return
        slots = action.slots if isinstance(action, Infer) else ()
        tenants = {slot.tenant_id for slot in slots} or {MODEL_OWNER}
        self.journal.begin(
            queued.turn, tuple(self._entry(each, spec, unknown=1) for each in tenants)
        )

    def ended(self, queued: Queued, ended: Ended, spec: ModelSpec | None) -> None:
        """Note what an action used; nothing if it did not run."""
        action, ok, now_ns = queued.action, ended.outcome is Outcome.OK, ended.end_ns
        if isinstance(action, Unload):  # of which the model may be forgotten by now
            self._note_residency((action.model_id,), now_ns)
            self._resident.pop(action.model_id, None)
        if spec is None or not _is_metered(action):
            return
        entries: tuple[UsageEntry, ...] = ()
        if ok and isinstance(action, Load):
            self._resident[spec.model_id] = spec, now_ns
            entries = (self._entry(MODEL_OWNER, spec, load_bytes=spec.image_bytes),)
        elif ok and isinstance(action, Infer):
            riders = [
                slot.tenant_id for slot, rode in zip(action.slots, ended.ran, strict=False) if rode
            ]
            parts = split_ns(ended.device_ns, riders)
            entries = tuple(self._entry(each, spec, gpu_ns=ns) for each, ns in parts.items())
        self.journal.end(queued.turn, entries)

    def tick(self, now_ns: int) -> None:
        """Note how long weights have been in pages so far."""
        self._note_residency(tuple(self._resident), now_ns)

    def _note_residency(self, model_ids: Sequence[ModelId], now_ns: int) -> None:
        """Write one record for them all: hundreds of writes at once would hold up an INFER."""
        used = []
        for model_id in model_ids:
            spec, since_ns = self._resident.get(model_id, (None, 0))
            ms = (now_ns - since_ns) // MS
            if spec is not None and ms > 0:
                self._resident[model_id] = spec, since_ns + ms * MS
                byte_ms = ms * spec.image_bytes
                used.append(self._entry(MODEL_OWNER, spec, resident_byte_ms=byte_ms))
        if used:
            self.journal.add(tuple(used))

    def _entry(self, tenant_id: TenantId, spec: ModelSpec, **used: int) -> UsageEntry:
        return UsageEntry(hour=self.hour(), tenant_id=tenant_id, model=spec.name, **used)


def _is_metered(action: Action) -> bool:
    """Say whether somebody pays: not for a PREPARE or a probe, which the cluster asked for."""
    return isinstance(action, Load) or (isinstance(action, Infer) and bool(action.slots))


@attrs.define(eq=False)
class GatewayMeter:
    """What one gateway writes down."""

    journal: Journal
    hour: Callable[[], int] = hour_now

    def answered(self, tenant_id: TenantId, model: str, answer: Answer | None) -> None:
        """Note how a request ended; None: its caller went away."""
        self.journal.add(
            (
                UsageEntry(
                    hour=self.hour(), tenant_id=tenant_id, model=model, **{ended_as(answer): 1}
                ),
            )
        )


def ended_as(answer: Answer | None) -> str:
    """Say which count of `UsageEntry` a request belongs to."""
    if answer is None:
        return "failed"
    if answer.outputs is not None:
        return "kept"
    if answer.refusal is not None:
        return "refused"
    assert answer.failure is not None
    is_late = answer.failure.kind is FailureKind.LATE
    return "broken" if answer.promised or is_late else "failed"


class TakesUsage(Protocol):
    """A controller's session."""

    async def meter(self, batch: UsageBatch) -> int:
        """See `GatewaySession.meter`."""
        ...


@attrs.define(eq=False)
class UsageSender:
    """Sends a process's journals to whatever controller there is.

    Args:
        folder: Where the journals are.
        journal: This life's.
        session: Gives the controller, or None.
        tick: Called before each look, with this process's clock.
    """

    folder: Path
    journal: Journal
    session: Callable[[], TakesUsage | None]
    tick: Callable[[int], None] | None = None
    _ticked_ns: int = attrs.field(default=0, init=False)
    _earlier_done: bool = attrs.field(default=False, init=False)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await trio.sleep(SEND_S)
            now = now_ns()
            if self.tick is not None and now - self._ticked_ns >= TICK_NS:
                self._ticked_ns = now
                self.tick(now)
            session = self.session()
            if session is None:
                continue
            try:
                if not self._earlier_done:
                    await self._send_earlier(session)
                await self._send_own(session)
            except CwError as exc:
                logger.warning("usage_waits source=%s why=%r", self.journal.source, str(exc))

    async def _send_own(self, session: TakesUsage) -> None:
        while (batch := self.journal.unsent(BATCH_RECORDS)) is not None:
            through = await session.meter(batch)
            self.journal.acknowledge(through)
            if through < batch.records[-1].number:
                return  # it has no catalog, or another writer had the same name

    async def _send_earlier(self, session: TakesUsage) -> None:
        """Send what earlier lives left behind, and delete their files once it is all added."""
        own: Incarnation = self.journal.incarnation
        earlier = await trio.to_thread.run_sync(
            lambda: list(read_earlier(self.folder, source=self.journal.source, incarnation=own))
        )
        for path, batch in earlier:
            records = batch.records
            while records:
                some = attrs.evolve(batch, records=records[:BATCH_RECORDS])
                if await session.meter(some) < some.records[-1].number:
                    return
                records = records[BATCH_RECORDS:]
            path.unlink()
        self._earlier_done = True
