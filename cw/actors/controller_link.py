"""An executor's link to its controller: one for each time it joins.

It is the port that the controller sees, and it carries results back. Everything that an action has
to do with its controller hangs on the link that it came by: its epoch, the clock its window is
on, and whether its result still interests anybody. A closed link swallows results, since a
controller that comes after knows nothing of the actions of the one before.
"""

from collections.abc import Callable
from typing import Final

import trio

from cw.actors.inbox import Inbox
from cw.core.clock_sync import ClockSync
from cw.errors import OutboxFull, PeerDisconnected
from cw.messages import ActionResult, Epoch, ExecutorId, ExecutorWelcome, Orders
from cw.rpc.ports import ExecutorSession

_EARLY_ORDERS_MAX: Final = 1024
"""Messages of orders that may come before the clock is good: some milliseconds' worth."""


class ControllerLink:
    """One session with one controller; satisfies `ExecutorPort`.

    Args:
        take: Called with the link and its orders, once the clock is good.
        clock: The controller's; shared by the links of one connection.
    """

    def __init__(
        self, take: Callable[["ControllerLink", Orders], None], clock: ClockSync | None = None
    ) -> None:
        self.clock: Final = clock or ClockSync()
        self._take = take
        self._early: Inbox[Orders] = Inbox(_EARLY_ORDERS_MAX, name="early orders")
        self._welcome: ExecutorWelcome | None = None
        self._session: ExecutorSession | None = None
        self._closed = trio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether the controller is gone, for this link."""
        return self._closed.is_set()

    @property
    def epoch(self) -> Epoch:
        """The controller's reign; orders of any other are stale."""
        assert self._welcome is not None, "the link is not open yet"
        return self._welcome.epoch

    @property
    def executor_id(self) -> ExecutorId:
        """What the controller calls this executor."""
        assert self._welcome is not None, "the link is not open yet"
        return self._welcome.executor_id

    @property
    def session(self) -> ExecutorSession:
        """The controller's side."""
        assert self._session is not None, "the link is not open yet"
        return self._session

    def start(self, welcome: ExecutorWelcome, session: ExecutorSession) -> None:
        """Begin to take orders: the controller has answered and the clock is good."""
        assert self.clock.is_synced, "windows can't be judged before the first ping"
        self._welcome, self._session = welcome, session
        for orders in self._early.drain_nowait():
            self._take(self, orders)

    # --- the controller's side: ExecutorPort ---

    def tell(self, orders: Orders) -> None:
        """Take orders, at once.

        Raises:
            PeerDisconnected: The link was closed.
            OutboxFull: Too many came before the clock was good.
        """
        if self.is_closed:
            raise PeerDisconnected("this executor has left; it will join anew")
        if self._session is None:
            self._early.put_nowait(orders)
        else:
            self._take(self, orders)

    async def wait_closed(self) -> None:
        """Return once the link is closed, by either side."""
        await self._closed.wait()

    def close(self) -> None:
        """Give the controller up; safe to call twice."""
        self._closed.set()

    # --- this executor's side ---

    def report(self, result: ActionResult) -> None:
        """Tell an action's result, if there is still somebody to tell."""
        if self.is_closed:
            return
        try:
            self.session.tell((result,))
        except (OutboxFull, PeerDisconnected):
            # A controller that does not read results plans on what is not so: join anew.
            self.close()
