"""LaneActor: windows and inputs against a device that takes its time."""

import pytest
import trio
import trio.testing

from cw.actors.clock import now_ns
from cw.core.lane import LAST_CALL_NS
from cw.messages import Outcome
from cw.units import MS, SECOND, US
from tests.actor.fakes import FakeController, FakeDevice, make_model, running_executor

CLOCK_ERROR_NS = 100 * US
"""The fake clocks agree, but between two pings nobody can be sure of it: `latest` moves."""


async def test_late_infer_is_dropped_without_delaying_the_next(autojump_clock):
    """Starting it late would push every later action of the lane out of its window, too."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(
            control.infer(1),
            control.infer(2, latest_ns=2 * MS),
            control.infer(3, earliest_ns=3 * MS, latest_ns=3 * MS),
        )
        outcomes = [(await control.result(action)).outcome for action in (1, 2, 3)]

        assert outcomes == [Outcome.OK, Outcome.TOO_LATE, Outcome.OK]
        first, third = rig.device.starts("infer")
        assert third - first == pytest.approx(3 * MS, abs=10)


async def test_it_starts_the_moment_the_last_inputs_come(autojump_clock):
    """Waiting on to `latest` would give away what the lane could do next."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7, 8]))
        first = rig.call(control.inputs(1, {1: 8}))
        await trio.sleep(0.006)
        came_ns = now_ns()
        answer = await rig.port.infer(control.inputs(1, {0: 7}))

        assert rig.device.starts("infer") == [pytest.approx(came_ns, abs=10)]
        assert answer.slots[0].outputs == (b"7000",)
        assert (await first.result()).slots[0].outputs == (b"8000",)
        assert answer.batch_size == 2


async def test_at_latest_it_starts_with_those_that_are_there(autojump_clock):
    """One slow gateway must not break its neighbours' promises."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        latest_ns = now_ns() + 20 * MS
        control.order(control.infer(1, [7, 8]))
        there = rig.call(control.inputs(1, {1: 8}))
        result = await control.result(1)
        late = await rig.port.infer(control.inputs(1, {0: 7}))

        assert (result.outcome, result.ran) == (Outcome.OK, (False, True))
        [start_ns] = rig.device.starts("infer")
        assert start_ns == pytest.approx(latest_ns - LAST_CALL_NS, abs=CLOCK_ERROR_NS)
        assert start_ns <= latest_ns
        assert (await there.result()).slots[0].outputs == (b"8000",)
        assert (late.outcome, late.slots[0].outputs) == (Outcome.INPUTS_LATE, None)


async def test_without_any_inputs_it_does_not_start(autojump_clock):
    """A batch of padding would take the device from those whose inputs are there."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7]), control.infer(2, latest_ns=30 * MS))
        result = await control.result(1)

        assert (result.outcome, result.ran) == (Outcome.INPUTS_LATE, (False,))
        assert (await control.result(2)).outcome is Outcome.OK
        assert len(rig.device.starts("infer")) == 1


async def test_infer_sent_ahead_waits_for_its_load(autojump_clock):
    """The controller sends both at once: a LOAD that runs a little long must not fail the INFER."""
    async with running_executor() as rig:
        control = rig.controller
        control.order(control.prepare(1))
        await control.result(1)
        began_ns = now_ns()
        control.order(control.load(2), control.infer(3, earliest_ns=4 * MS))
        result = await control.result(3)

        assert result.outcome is Outcome.OK
        assert rig.device.starts("infer") == [pytest.approx(began_ns + 5 * MS, abs=10)]


async def test_infer_whose_load_is_too_slow_is_too_late(autojump_clock):
    """It ends at its own `latest`, not whenever the LOAD does."""
    async with running_executor() as rig:
        rig.device.load_ns = SECOND
        control = rig.controller
        control.order(control.prepare(1))
        await control.result(1)
        began_ns = now_ns()
        control.order(control.load(2), control.infer(3))

        assert (await control.result(3)).outcome is Outcome.TOO_LATE
        assert now_ns() - began_ns == pytest.approx(20 * MS, abs=CLOCK_ERROR_NS)


async def test_latest_is_tightened_by_the_clocks_error(autojump_clock):
    """On the controller's own clock, too, nothing may start after `latest`."""

    class Distant(FakeController):
        """Its answers take 1 ms each way, so that our clock is good to 1 ms."""

        async def ping(self, sent_ns):
            await trio.sleep(0.001)
            pong = await FakeController.ping(self, sent_ns)
            await trio.sleep(0.001)
            return pong

        async def joined(self, times):
            await FakeController.joined(self, times)
            await trio.sleep(0.1)

    async with running_executor(controller=Distant()) as rig:
        await rig.warm()
        began_ns = now_ns()
        rig.controller.order(rig.controller.infer(1, [7], latest_ns=20 * MS))
        assert (await rig.controller.result(1)).outcome is Outcome.INPUTS_LATE

        assert now_ns() - began_ns == pytest.approx(19 * MS, abs=100_000)


async def test_lane_busy_tells_how_long_others_kept_a_request_waiting(autojump_clock):
    """Explains a late answer: the lane was busy, or it was not the lane's fault."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        inputs = control.inputs(2, {0: 7})  # arrives now
        await trio.sleep(0.002)
        control.order(control.infer(1), control.infer(2, [7]))
        answer = await rig.port.infer(inputs)

        assert answer.slots[0].lane_busy_ns == pytest.approx(3 * MS, abs=10)


async def test_the_next_infer_begins_where_the_first_ended(autojump_clock):
    """It is with the device already, which needs no turn of the event loop between the two."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1), control.infer(2), control.infer(3))
        await trio.testing.wait_all_tasks_blocked()

        assert rig.device.waiting == 1  # and the third is not given away yet
        await control.result(3)
        first, second, third = rig.device.starts("infer")
        assert (second - first, third - second) == (3 * MS, 3 * MS)


async def test_an_infer_that_lacks_inputs_is_not_staged(autojump_clock):
    """Its inputs may still come while the device is busy, and they do."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1), control.infer(2, [7, 8]))
        first = rig.call(control.inputs(2, {0: 7}))
        await trio.sleep(0.001)
        assert rig.device.waiting == 0
        second = rig.call(control.inputs(2, {1: 8}))

        assert (await first.result()).slots[0].outputs == (b"7000",)
        assert (await second.result()).slots[0].outputs == (b"8000",)
        assert (await control.result(2)).ran == (True, True)


async def test_a_staged_infer_that_misses_its_window_did_not_run(autojump_clock):
    """The device looks at the clock again when the lane is free: it may have become late."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        rig.device.infer_ns = 10 * MS
        control.order(control.infer(1, latest_ns=5 * MS), control.infer(2, [7], latest_ns=8 * MS))
        call = rig.call(control.inputs(2, {0: 7}))
        result = await control.result(2)
        answer = await call.result()

        assert (result.outcome, result.ran) == (Outcome.TOO_LATE, (False,))
        assert (answer.outcome, answer.slots[0].outputs) == (Outcome.TOO_LATE, None)
        assert len(rig.device.starts("infer")) == 1


async def test_a_load_that_misses_its_window_leaves_the_model_cold(autojump_clock):
    """Its pages are free again, and the next LOAD finds them."""
    async with running_executor() as rig:
        control = rig.controller
        other = make_model("other", pages=4)
        control.order(control.prepare(1), control.prepare(2, other))
        await control.result(2)
        control.order(control.load(3), control.unload(4), control.load(5, other, latest_ns=2 * MS))
        assert (await control.result(5)).outcome is Outcome.TOO_LATE
        control.order(control.load(6, other))

        assert (await control.result(6)).outcome is Outcome.OK


async def test_a_second_load_is_staged_behind_the_first(autojump_clock):
    """A cold model's pages come one after the other, with the link busy all the time."""
    async with running_executor() as rig:
        control = rig.controller
        other = make_model("other")
        control.order(control.prepare(1), control.prepare(2, other))
        await control.result(2)
        control.order(control.load(3), control.load(4, other))
        await trio.testing.wait_all_tasks_blocked()

        assert rig.device.waiting == 1
        await control.result(4)
        first, second = rig.device.starts("load")
        assert second - first == 5 * MS


async def test_an_infer_is_not_staged_behind_the_load_that_it_needs(autojump_clock):
    """A LOAD may fail, on a lane that both share as well."""
    async with running_executor(device=FakeDevice(shared_lanes=True)) as rig:
        control = rig.controller
        control.order(control.prepare(1))
        await control.result(1)
        control.order(control.load(2), control.infer(3))
        await trio.testing.wait_all_tasks_blocked()

        assert rig.device.waiting == 0
        assert (await control.result(3)).outcome is Outcome.OK
