"""The pool that simulates side by side: how it ends early."""

import multiprocessing
import signal
import time

import pytest

from cw.sim.experiments.pool import Pool


def test_a_pool_that_is_left_by_an_exception_waits_for_nobody():
    """An interrupted plan must not go on for as long as its longest run."""
    before = set(multiprocessing.active_children())
    with pytest.raises(TypeError), Pool(jobs=2) as pool:
        pool.map(time.sleep, [3600, "no number"], what="an hour")

    assert set(multiprocessing.active_children()) <= before


def test_a_pool_leaves_interrupts_to_its_parent():
    """Ctrl-C reaches every process of a terminal: one of them has something to say about it."""
    with Pool(jobs=2) as pool:
        handlers = pool.map(signal.getsignal, [signal.SIGINT] * 2, what="handlers")

    assert handlers == [signal.SIG_IGN] * 2
