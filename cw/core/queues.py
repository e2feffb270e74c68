"""Queues: the requests of one model that wait without a place, in deadline order.

The concept: who is due first stands first, whatever the order of arrival, since first-in-first-out
lets a request with a long SLO block one with a short SLO. Nearly every request goes in at the back
(one SLO per model is the common case), so a sorted list is the cheapest order there is.

Knows nothing of executors. Neighbours: policies take batches from here; `scheduler.py` puts in.
"""

from bisect import bisect_left, insort

from cw.core.requests import Request


def _urgency(request: Request) -> tuple[int, int]:
    return request.due_ns, request.request_id


class ModelQueue(list[Request]):
    """The waiting requests of one model, most urgent first.

    A list to its readers; `add` and `remove` alone change it, and keep its order.
    """

    __slots__ = ()

    def add(self, request: Request) -> None:
        """Enter a request in its place by deadline."""
        if not self or _urgency(self[-1]) < _urgency(request):
            self.append(request)
        else:
            insort(self, request, key=_urgency)

    def remove(self, request: Request) -> None:
        """Take a request out; it must be there."""
        index = 0 if self[0] is request else bisect_left(self, _urgency(request), key=_urgency)
        assert self[index] is request
        del self[index]

    def first(self, count: int) -> list[Request]:
        """Look at the most urgent `count`."""
        return self[:count]

    def largest_fit(self, costs_ns: list[int], start_ns: int, *, skip: int = 0) -> int:
        """Say how many, from position `skip` on, can ride in one batch that starts at `start_ns`.

        All must ride from the most urgent on, so the batch ends before *its* due time.

        Args:
            costs_ns: Index n: the cost of a batch of n.
            start_ns: When the batch would start.
            skip: So many of the most urgent are left out.
        """
        count = min(len(self) - skip, len(costs_ns) - 1)
        if count <= 0:
            return 0
        room_ns = self[skip].due_ns - start_ns
        while count and costs_ns[count] > room_ns:
            count -= 1
        return count
