"""Telemetry: one record per action, to a file of JSON lines.

Records, not logs, are the truth about what ran when. Writing them must never delay a lane: a record
is put into a bounded inbox without waiting, a batch is written by a thread, and what does not fit
is dropped and counted. The file is bounded too: when full it becomes ``<name>.1``, in place of the
one before. Columns are explained in `docs/telemetry.md`.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.actors.inbox import Inbox
from cw.errors import OutboxFull
from cw.units import MiB

logger = logging.getLogger(__name__)

_WAITING_RECORDS_MAX: Final = 16_384
"""Records between two writes: over ten seconds of the quickest lane."""

_GATHER_S: Final = 0.25
"""Pause between two writes, so that a thread is used four times a second and not per action."""

_FILE_BYTES_MAX: Final = 256 * MiB


@attrs.frozen(kw_only=True)
class ActionRecord:
    """One action's end. Instants are cluster time; its columns are the file's.

    Each line stands for itself: files are cut, rotated and appended to by later lives.
    """

    date_ns: int
    executor: str
    device: str
    epoch: int
    executor_id: int
    action_id: int
    kind: str
    model_id: int
    model: str
    outcome: str
    batch_size: int
    slots: int
    gateways: int
    ran: int
    earliest_ns: int
    latest_ns: int
    expected_ns: int
    planned_start_ns: int
    planned_end_ns: int
    received_ns: int
    ready_ns: int
    start_ns: int
    end_ns: int
    device_ns: int
    running_ns: int
    clock_offset_ns: int
    clock_error_ns: int
    detail: str


class Telemetry:
    """Drains records to a file.

    Args:
        path: The file; appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inbox: Inbox[ActionRecord] = Inbox(_WAITING_RECORDS_MAX, name="telemetry")
        self.dropped_count = 0
        """Records that did not fit since the start."""

    def record(self, record: ActionRecord) -> None:
        """Hand a record on, or drop and count it; never waits."""
        try:
            self._inbox.put_nowait(record)
        except OutboxFull:
            self.dropped_count += 1

    async def run(self) -> None:
        """Write until cancelled; what still waits then is written, too."""
        try:
            while True:
                records = await self._inbox.drain()
                # A batch that was taken out is written even when the executor stops meanwhile.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._write, records)
                await trio.sleep(_GATHER_S)
        finally:
            self._write(self._inbox.drain_nowait())

    def _write(self, records: Sequence[ActionRecord]) -> None:
        lines = "".join(
            json.dumps(attrs.asdict(record), separators=(",", ":")) + "\n" for record in records
        )
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(lines)
                is_full = file.tell() > _FILE_BYTES_MAX
            if is_full:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
        except OSError as exc:
            self.dropped_count += len(records)
            logger.warning(
                "telemetry_lost path=%s records=%d why=%s", self._path, len(records), exc
            )
