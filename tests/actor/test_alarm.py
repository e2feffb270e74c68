"""The alarm of an actor: rings at the instant set last, whichever way it was changed."""

import pytest
import trio

from cw.actors.alarm import Alarm
from cw.actors.clock import now_ns
from cw.units import MS


@pytest.fixture
async def alarm(nursery):
    return await nursery.start(Alarm().run)


async def rang_at(bell, limit_s=5.0):
    with trio.fail_after(limit_s):
        await bell.wait()
    return now_ns()


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_rings_no_earlier_than_it_was_put_off_to(clock):
    """An instant put off leaves the timer armed too early: that must not be heard."""

    async def main():
        async with trio.open_nursery() as nursery:
            alarm = await nursery.start(Alarm().run)
            bell = trio.Event()
            due_ns = now_ns() + 40 * MS
            alarm.set(now_ns() + 10 * MS, bell)
            alarm.set(due_ns, bell)
            assert await rang_at(bell) >= due_ns
            nursery.cancel_scope.cancel()

    trio.run(main, clock=None if clock == "real" else trio.testing.MockClock(autojump_threshold=0))


async def test_rings_earlier_when_brought_forward(alarm):
    """A deadline that came in late must not wait for what was set before it."""
    bell = trio.Event()
    alarm.set(now_ns() + 3600_000 * MS, bell)
    await trio.testing.wait_all_tasks_blocked()
    alarm.set(now_ns() + 5 * MS, bell)
    await rang_at(bell)


async def test_never_rings_for_what_was_taken_back(alarm, autojump_clock):
    """None means never, even where the timer had been armed."""
    bell = trio.Event()
    alarm.set(now_ns() + 5 * MS, bell)
    alarm.set(None, bell)
    await trio.sleep(1)
    assert not bell.is_set()


async def test_rings_again_and_again_at_the_bell_it_was_given_last(alarm):
    """Each round of an actor has a bell of its own."""
    for _ in range(20):
        first, second = trio.Event(), trio.Event()
        due_ns = now_ns() + 1 * MS
        alarm.set(due_ns, first)
        alarm.set(due_ns, second)
        assert await rang_at(second) >= due_ns
        assert not first.is_set()


async def test_rings_at_once_for_what_has_passed(alarm):
    """The scheduler may name an instant that is over by the time that it is set."""
    bell = trio.Event()
    alarm.set(now_ns() - 1 * MS, bell)
    await rang_at(bell)
