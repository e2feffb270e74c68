"""The profile keeper: what a controller measured outlives it, and damage is only a loss of time."""

from pathlib import Path

import trio

from cw.actors.profile_keeper import ProfileKeeper, load_profiles
from cw.config import SchedulerSettings
from cw.core.profile import DeviceKey, MeasuredDurations
from cw.core.scheduler import Scheduler
from cw.messages import Epoch
from cw.models.store import ModelStore
from cw.units import MS

DEVICE = DeviceKey(("cpu", "Some CPU @ 2 GHz / 1 thread"))


def measured(program: str, size: int, *durations_ns: int) -> MeasuredDurations:
    """Describe one batch size's measurements."""
    return MeasuredDurations(
        program_sha256=program * 64, device=DEVICE, batch_size=size, durations_ns=durations_ns
    )


def scheduler(*known: MeasuredDurations) -> Scheduler:
    """Make a scheduler that begins with these measurements."""
    return Scheduler(SchedulerSettings(), epoch=Epoch(1), ticket_seed=1, measured=known)


def made_store(tmp_path: Path) -> ModelStore:
    """Make an empty store."""
    store = ModelStore(tmp_path / "store")
    store.prepare()
    return store


async def save(core: Scheduler, store: ModelStore) -> None:
    """Run a keeper and stop it, as a controller that ends does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ProfileKeeper(core, store).run)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_what_was_measured_outlives_the_controller(tmp_path: Path) -> None:
    """A restarted controller that measured everything again would refuse `notReady` meanwhile."""
    store = made_store(tmp_path)
    known = [measured("a", 1, 5 * MS, 6 * MS), measured("a", 8, 9 * MS), measured("b", 1, MS)]

    await save(scheduler(*known), store)

    assert load_profiles(store) == known
    assert scheduler(*load_profiles(store)).measured() == known


async def test_a_damaged_file_costs_only_its_own_program(tmp_path: Path) -> None:
    """A profile is a cache: whatever is wrong with one must not keep a controller from starting."""
    store = made_store(tmp_path)
    await save(scheduler(measured("a", 1, MS), measured("b", 1, MS), measured("c", 1, MS)), store)
    first, second, _ = sorted(store.root.glob("profiles/*/*.json"))
    first.write_text("{")
    second.write_text(second.read_text().replace(str(MS), "-1"))

    assert load_profiles(store) == [measured("c", 1, MS)]


async def test_a_disk_that_takes_nothing_does_not_stop_the_controller(tmp_path: Path) -> None:
    """The keeper's only answer to a full disk is to try again later."""
    store = made_store(tmp_path)
    (store.root / "profiles").rmdir()
    (store.root / "profiles").write_text("no folder")

    await save(scheduler(measured("a", 1, MS)), store)

    assert load_profiles(store) == []
