"""Profile keeper: saves what was measured, so that a restarted controller need not measure again.

Files in the store, one per kind of device and program, written in a thread and by rename. A file
that can't be read is as good as none: the program is measured again. It must not know: what the
durations are used for.

Neighbours: `core/profile.py` (whose measurements), `cw/models/store.py` (where).
"""

import json
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.core.profile import DeviceKey, MeasuredDurations
from cw.core.scheduler import Scheduler
from cw.models.store import ModelStore

logger = logging.getLogger(__name__)

_PERIOD_S: Final = 5.0
"""What a crash can lose. Estimates move slowly, and a loss only means to learn it again."""
_DURATIONS_MAX: Final = 10_000
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]+")

Kept = tuple[str, DeviceKey]
"""A program's sha256 and a kind of device: one file."""


@attrs.define(eq=False)
class ProfileKeeper:
    """Saves the scheduler's profiles while it runs."""

    core: Scheduler
    store: ModelStore
    _saved: dict[Kept, list[MeasuredDurations]] = attrs.field(factory=dict, init=False)

    async def run(self) -> None:
        """Save every few seconds, and once more at the end."""
        try:
            while True:
                await trio.sleep(_PERIOD_S)
                await self._save()
        finally:
            with trio.CancelScope(shield=True):
                await self._save()

    async def _save(self) -> None:
        changed = {
            kept: entries
            for kept, entries in _grouped(self.core.measured()).items()
            if self._saved.get(kept) != entries
        }
        if not changed:
            return
        try:
            await trio.to_thread.run_sync(_write_all, self.store, changed)
        except OSError as exc:
            # A full disk must not stop a controller: the next round tries again.
            logger.warning("profiles not saved: %s", exc)
            return
        self._saved |= changed


def load_profiles(store: ModelStore) -> list[MeasuredDurations]:
    """Read all saved profiles; blocks on the disk."""
    measured: list[MeasuredDurations] = []
    for path in sorted(store.root.glob("profiles/*/*.json")):
        try:
            measured += _parse(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            logger.warning("profile ignored path=%s: %s", path, exc)
    return measured


def _grouped(measured: Iterable[MeasuredDurations]) -> dict[Kept, list[MeasuredDurations]]:
    groups: dict[Kept, list[MeasuredDurations]] = {}
    for entry in measured:
        groups.setdefault((entry.program_sha256, entry.device), []).append(entry)
    return groups


def _write_all(store: ModelStore, changed: dict[Kept, list[MeasuredDurations]]) -> None:
    for (program, (kind, name)), entries in changed.items():
        folder = _NOT_IN_NAMES.sub("-", f"{kind}-{name}")[:100].strip("-._")
        document = {
            "program_sha256": program,
            "device": [kind, name],
            "durations_ns": {str(e.batch_size): list(e.durations_ns) for e in entries},
        }
        _write_whole(store.profile_path(folder, program), json.dumps(document))


def _write_whole(path: Path, text: str) -> None:
    # Several cells' controllers keep profiles in one store: each draft has one writer.
    draft = path.with_suffix(f".{os.getpid()}.new")
    draft.write_text(text, "utf-8")
    os.replace(draft, path)


def _parse(document: dict[str, object]) -> list[MeasuredDurations]:
    device, durations = document["device"], document["durations_ns"]
    if not isinstance(device, list) or not isinstance(durations, dict):
        raise TypeError("expected a device's kind and name, and durations by batch size")
    kind, name = (str(word) for word in device)
    measured = []
    for size, values in durations.items():
        kept = tuple(int(value) for value in values[-_DURATIONS_MAX:])
        if not kept or min(kept) <= 0:
            raise ValueError("expected durations of more than 0 ns")
        measured.append(
            MeasuredDurations(
                program_sha256=str(document["program_sha256"]),
                device=DeviceKey((kind, name)),
                batch_size=int(size),
                durations_ns=kept,
            )
        )
    return measured
