"""Doubt: what refuses is measured again, or a stall that is over would refuse for ever."""

from cw.core.durations import FASTER_RUN, DurationWindow
from cw.core.timeline import PIPE_STALE_NS, PipeDelay
from cw.units import MS, SECOND
from tests.unit.scheduler_world import CPU_MS, World


def test_an_estimate_that_refuses_everything_is_measured_again():
    """Refused requests teach nothing; an idle lane can find out."""
    world = World(models=1, durations_ms=CPU_MS)
    world.register()
    books = world.scheduler.books
    (place,) = next(iter(books.models.values())).places.values()
    for size in place.model.spec.batch_sizes:
        books.profiles.seed(
            place.model.spec.program_sha256, size, place.executor.key, [90 * MS] * 8
        )
    arrivals = world.offer(50, 4, 50 * MS)

    assert place.costs.by_count[1] < 10 * MS
    assert world.outcomes.kept > 0.6 * len(arrivals)
    assert world.outcomes.broken_promises == 0


def test_a_pipe_that_nothing_confirms_is_given_up():
    """Delays seen in a traffic jam refuse requests, and then no result shows that it is over."""
    pipe = PipeDelay(lead_min_ns=2 * MS, lead_max_ns=10 * MS)
    fresh = (pipe.delay_ns, pipe.return_ns, pipe.overhead_ns)
    for _ in range(8):
        pipe.learn_ready(sent_ns=0, ready_ns=9 * MS)
        pipe.learn_overhead(9 * MS)
        pipe.learn_back(end_ns=SECOND, now_ns=SECOND + 9 * MS)

    pipe.refresh(now_ns=SECOND + PIPE_STALE_NS)
    assert pipe.delay_ns == pipe.overhead_ns == 9 * MS
    pipe.refresh(now_ns=SECOND + PIPE_STALE_NS + 10 * MS)
    assert (pipe.delay_ns, pipe.return_ns, pipe.overhead_ns) == fresh


def test_rechecks_that_are_not_all_quick_keep_the_estimate():
    """One quick run among slow ones proves nothing: the estimate is what promises rest on."""
    window = DurationWindow(200, 0.99)
    for _ in range(20):
        window.add(50 * MS)

    window.correct([10 * MS] * 5 + [45 * MS])
    assert window.estimate_ns == 50 * MS
    window.correct([10 * MS] * 6)
    assert window.estimate_ns == 10 * MS


def test_a_long_run_far_below_the_estimate_ends_it():
    """Requests that still get through teach the same, only more slowly."""
    window = DurationWindow(500, 0.99)
    for _ in range(4):
        window.add(50 * MS)
    for _ in range(FASTER_RUN - 1):
        window.add(10 * MS)
    assert window.estimate_ns == 50 * MS

    window.add(10 * MS)
    assert window.estimate_ns == 10 * MS
