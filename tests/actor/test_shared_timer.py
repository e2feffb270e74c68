"""The timer that many emulated lanes share."""

import trio

from cw.actors.clock import now_ns
from cw.devices.shared_timer import SharedTimer
from cw.units import MS


async def test_each_sleeper_wakes_at_its_own_instant(autojump_clock):
    """One that asks later for an earlier instant must not wait for those before it."""
    woken = {}
    async with trio.open_nursery() as nursery:
        timer = SharedTimer()
        await nursery.start(timer.run)
        began_ns = now_ns()

        async def sleep(delay_ms):
            await timer.sleep_until_ns(began_ns + delay_ms * MS)
            woken[delay_ms] = round((now_ns() - began_ns) / MS)

        async with trio.open_nursery() as sleepers:
            for delay_ms in (30, 10, 20, 0, 10):
                sleepers.start_soon(sleep, delay_ms)
        nursery.cancel_scope.cancel()

    assert woken == {0: 0, 10: 10, 20: 20, 30: 30}
