"""Notices a card that does not finish: a wait past its bound is a fault of the device.

The driver's waits have no bound of their own, and a thread inside one can't be stopped. So the
event loop looks at how long they last, and gives the threads up: the executor ends, and its
supervisor starts it again.
"""

from collections.abc import Sequence
from typing import Final

import trio

from cw.devices.cuda.driver import CudaDriver
from cw.devices.lane_thread import LaneThread
from cw.units import SECOND, format_ms

_LOOKS_PER_LIMIT: Final = 4


async def watch(driver: CudaDriver, lanes: Sequence[LaneThread], limit_ns: int) -> None:
    """Look until cancelled, or until a wait lasts longer than the limit: then give up the lanes."""
    waited_ns = 0
    while waited_ns <= limit_ns:
        await trio.sleep(limit_ns / _LOOKS_PER_LIMIT / SECOND)
        waited_ns = driver.waiting_ns()
    for lane in lanes:
        lane.give_up(
            f"expected the card to finish within {format_ms(limit_ns)}, got no end after "
            f"{format_ms(waited_ns)}; the executor has to restart. If it comes again, see dmesg "
            "for Xid messages; if the model takes so long, raise [executor.cuda] hang_limit"
        )
