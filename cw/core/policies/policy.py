"""The interface of a policy: what runs, where and when; and who is promised or refused.

The concept: the scheduler keeps the books, the lifecycles and the promises' bookkeeping; a policy
only chooses. It reads everything in `Books`; it changes plans and queues, and moves requests
between WAITING and PLANNED. It sends nothing and ends no request: it says what to. Whom it gives up
before their time it puts into `Books.given_up`, and is asked to `decide` about them in this step.

Neighbours: `scheduler.py` asks, `default.py` and `clockwork.py` answer.
"""

from typing import Protocol

from cw.core.books import ExecutorBooks, Place
from cw.core.plan import PlannedBatch
from cw.core.requests import Request
from cw.messages import Refusal


class Policy(Protocol):
    """How to choose. Instants are cluster time, ns."""

    def hold_until_ns(self, request: Request) -> int:
        """Say until when a request may stay undecided."""
        ...

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Take in a new request: plan it, let it wait, or say why it is refused."""
        ...

    def decide(self, request: Request, *, now_ns: int) -> Refusal | None:
        """A waiting request's time is up: plan it, or say why it is refused."""
        ...

    def restore(self, request: Request, *, force: bool, now_ns: int) -> None:
        """Find a place for a promised request that has none; `force`: whoever is hurt.

        It waits on if there is none. Nothing promised to others may suffer unless forced.
        """
        ...

    def reconsider(self, executor: ExecutorBooks, *, now_ns: int) -> None:
        """Something changed on an executor: see whether those who wait fit now."""
        ...

    def next_batch(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Choose what to send to an INFER lane that is soon free, out of all plans and queues."""
        ...

    def lead_ns(self, executor: ExecutorBooks) -> int:
        """Say how long before an INFER lane is free `next_batch` is to be asked."""
        ...

    def wake_at_ns(self, executor: ExecutorBooks, *, now_ns: int) -> int | None:
        """Say when `next_batch` is to be asked for an idle lane even if nothing happens."""
        ...

    def next_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Choose whose weights to load on an executor now, if anyone's."""
        ...
