"""Queues: most urgent first, whatever the order of arrival."""

from hypothesis import given
from hypothesis import strategies as st

from cw.core.books import ModelBooks
from cw.core.queues import ModelQueue
from cw.core.requests import Request
from cw.messages import Attempt, GatewayId, RequestId
from tests.unit.scheduler_world import spec

MODEL = ModelBooks(spec(0))


def request(number, due_ns):
    return Request(
        request_id=RequestId(number),
        gateway_id=GatewayId(1),
        model=MODEL,
        arrival_ns=0,
        deadline_ns=due_ns,
        due_ns=due_ns,
        hold_until_ns=0,
        attempt=Attempt(1),
    )


def queue_of(*dues):
    queue = ModelQueue()
    for number, due_ns in enumerate(dues):
        queue.add(request(number, due_ns))
    return queue


@given(st.lists(st.integers(0, 20), max_size=40), st.data())
def test_queue_is_in_deadline_order_and_loses_nobody(dues, data):
    """First in first out would let a request with a long SLO block one with a short one."""
    queue = queue_of(*dues)
    assert [each.due_ns for each in queue] == sorted(dues)
    while queue:
        index = data.draw(st.integers(0, len(queue) - 1))
        gone = queue[index]
        queue.remove(gone)
        assert all(each is not gone for each in queue)


def test_equal_deadlines_keep_their_order_of_arrival():
    """Among equals the first to come is the first to be served, and runs are repeatable."""
    assert [each.request_id for each in queue_of(5, 5, 5)] == [0, 1, 2]


def test_largest_fit_is_bounded_by_the_most_urgent():
    """All riders must be in time: the batch ends before its first one is due."""
    queue, costs = queue_of(10, 30, 30, 30), [0, 4, 6, 12, 12]

    assert queue.largest_fit(costs, 0) == 2
    assert queue.largest_fit(costs, 7) == 0
    assert queue.largest_fit(costs, 7, skip=1) == 3
    assert queue.largest_fit(costs, 0, skip=4) == 0
