"""Work: what a committed action carries for the scheduler, to be found again with its result.

Neighbours: `scheduler.py` and `registration.py` make it, `timeline.py` keeps it.
"""

from typing import TYPE_CHECKING

import attrs

from cw.core.requests import Request

if TYPE_CHECKING:
    from cw.core.books import Place


@attrs.define(eq=False)
class Work:
    """One action's model on its executor, and the requests that ride in it."""

    place: "Place"
    requests: list[Request | None] = attrs.field(factory=list)
    """By position; None where the request ended before its action did."""
    late: list[Request] = attrs.field(factory=list)
    """Those of them that were late before the result came: it will tell why."""
    device_ns: int = 0
    """Expected time on the device alone."""
    probe: bool = False
