"""When the action at the head of a lane may start, or why it may not.

Rules
-----
1. A lane is serial and in order: only its head is looked at. While an action runs the head may be
   *staged*: given to the device already, which begins it by its own clockwork when the lane is
   free, if its window allows. Only what needs nothing more is staged: an INFER with all its inputs,
   of a model that is resident, or a LOAD, behind one of the same two kinds; and one at most. An
   UNLOAD needs no device, so it is done while one is busy.
2. A window bounds the start, both ends included. Before `earliest` nothing starts, after `latest`
   nothing does either: a late action would push all later ones out of their windows, too.
3. An action waits for its turn with its model (`core/residency.py`): a LOAD for the UNLOAD before
   it, an INFER for the LOAD before it. If its turn has not come by `latest`, it was too late.
4. An INFER starts as soon as all of its inputs are there. At `latest` it starts with those that are
   there. Timers wake a little late, so "at `latest`" means within `LAST_CALL_NS` before it.
5. An INFER that nobody has brought any input for by `latest` does not start: `INPUTS_LATE`. One
   whose slots were all cancelled ends at once: `CANCELLED`. A probe has no slots and needs none.
6. A model that is not resident when its turn has come never will be: `NOT_RESIDENT`, at once.
7. The device is given an action `HAND_OVER_NS` before `earliest`, at most, and starts it on time:
   its clockwork is more precise than timers of the event loop. Until then a slot may be cancelled.

The lane's actor (`actors/lane.py`) does what is decided here. The lane remembers when it ran
lately, for a request to learn how long others kept it waiting.
"""

import enum
from collections import deque
from typing import Final

import attrs

from cw.messages import Outcome, Window
from cw.units import MS, US

LAST_CALL_NS: Final = 300 * US
"""How long before `latest` a batch stops waiting for the rest of its inputs. A timerfd wakes about
50 us late, and up to 300 us on a busy machine."""

HAND_OVER_NS: Final = MS
"""How long before `earliest` an action may be given to the device. Event loops are late by less."""

LANE_DEPTH: Final = 2
"""Actions with the device at a time: the one that runs, and one that is staged."""

_HISTORY_COUNT: Final = 512
"""Runs remembered. At 1 ms each they reach back 0.5 s, further than SLOs worth explaining."""


class Inputs(enum.Enum):
    """How many of an INFER's inputs are there."""

    ALL = "all"
    """All that will come: cancelled slots are not waited for. Also said of what needs none."""
    SOME = "some"
    NONE = "none"
    CANCELLED = "cancelled"
    """Every slot was cancelled."""


@attrs.frozen(kw_only=True)
class Head:
    """What the lane knows of its head action."""

    window: Window | None
    """On this process's clock, after `tighten`. None: an UNLOAD, which needs neither a time nor
    the device."""
    inputs: Inputs = Inputs.ALL
    is_its_turn: bool = True
    """No earlier action of the same model is unfinished."""
    is_resident: bool = True
    """The model's weights are in pages; said of what does not need them, too."""
    is_behind: bool = False
    """The device is busy with an action of this lane."""
    may_be_staged: bool = True
    """Both that action and this one are of a kind that a device can begin by itself."""


@attrs.frozen(kw_only=True)
class Start:
    """The head starts now."""


@attrs.frozen(kw_only=True)
class Wait:
    """Look again at `until_ns`, or as soon as anything changes; None: only then."""

    until_ns: int | None


def tighten(window: Window, error_bound_ns: int) -> Window:
    """Move `latest` forward by the clock's error, so that it is kept on the controller's clock.

    At most half of the window is given away: a poor clock narrows it but does not close it.

    Args:
        window: On this process's clock.
        error_bound_ns: Of the conversion to that clock.
    """
    width_ns = window.latest_ns - window.earliest_ns
    latest_ns = window.latest_ns - min(error_bound_ns, width_ns // 2)
    return Window(earliest_ns=window.earliest_ns, latest_ns=latest_ns)


class LanePlan:
    """One lane's decisions and its memory of when it ran.

    Args:
        hand_over_ns: How long before `earliest` the device may have an action; 0 where whoever asks
            is the device.
    """

    def __init__(self, *, hand_over_ns: int = HAND_OVER_NS) -> None:
        self._hand_over_ns: Final = hand_over_ns
        self._runs: deque[tuple[int, int]] = deque(maxlen=_HISTORY_COUNT)

    def next_step(self, head: Head, *, now_ns: int) -> Start | Wait | Outcome:
        """Decide about the head action.

        Args:
            head: What is known of it.
            now_ns: This process's clock.

        Returns:
            `Start`, which means to give it to the device; or `Wait`; or the outcome of an action
            that will not be started.
        """
        if head.inputs is Inputs.CANCELLED:
            return Outcome.CANCELLED
        if head.window is None:
            return Start() if head.is_its_turn else Wait(until_ns=None)
        if head.is_behind and not self._can_stage(head):
            return Wait(until_ns=None)
        if head.is_its_turn and not head.is_resident:
            return Outcome.NOT_RESIDENT
        latest_ns = head.window.latest_ns
        if now_ns > latest_ns:
            return Outcome.INPUTS_LATE if head.inputs is Inputs.NONE else Outcome.TOO_LATE
        if not head.is_its_turn:
            return Wait(until_ns=latest_ns + 1)
        start_ns = self._earliest_start_ns(head, head.window)
        return Start() if start_ns <= now_ns else Wait(until_ns=start_ns)

    def _can_stage(self, head: Head) -> bool:
        return (
            head.may_be_staged
            and head.inputs is Inputs.ALL
            and head.is_its_turn
            and head.is_resident
        )

    def _earliest_start_ns(self, head: Head, window: Window) -> int:
        match head.inputs:
            case Inputs.ALL:
                return window.earliest_ns - self._hand_over_ns
            case Inputs.SOME:
                return max(window.earliest_ns, window.latest_ns - LAST_CALL_NS)
            case _:
                # Never, as it stands: the first instant at which it is known to be late.
                return window.latest_ns + 1

    def ran(self, start_ns: int, end_ns: int) -> None:
        """Remember that the lane ran an action from `start_ns` to `end_ns`."""
        assert start_ns <= end_ns, f"an action ended at {end_ns}, before its start at {start_ns}"
        self._runs.append((start_ns, end_ns))

    def busy_ns(self, arrival_ns: int, start_ns: int) -> int:
        """Say for how long of [arrival, start] the lane ran actions, as far back as it remembers.

        Args:
            arrival_ns: When the request arrived, on this process's clock.
            start_ns: When its own action started; that action is not remembered yet, or begins
                only here, so that it does not count.
        """
        busy = 0
        for run_start_ns, run_end_ns in reversed(self._runs):
            if run_end_ns <= arrival_ns:
                break
            busy += max(0, min(run_end_ns, start_ns) - max(run_start_ns, arrival_ns))
        return busy
