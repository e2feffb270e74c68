"""The simulator's parts: its clock and its links."""

import random

import pytest

from cw.sim.engine import Engine, SimulationStuck
from cw.sim.network import Network, NetworkModel


def test_time_goes_from_one_occurrence_to_the_next_in_order():
    """Two things at one instant happen in the order in which they were asked for, always."""
    engine, seen = Engine(), []
    engine.at(20, seen.append, "late")
    engine.at(10, seen.append, "first")
    engine.at(10, seen.append, "second")
    engine.run(until_ns=15)

    assert seen == ["first", "second"]
    assert engine.now_ns == 15
    engine.run(until_ns=30)
    assert seen == ["first", "second", "late"]


def test_a_loop_without_end_is_noticed():
    """A timer that is due at once for ever would hang the run, and say nothing."""
    engine = Engine()

    def again():
        engine.after(0, again)

    engine.at(5, again)
    with pytest.raises(SimulationStuck):
        engine.run(until_ns=10)


def test_messages_on_a_link_keep_their_order():
    """Actions to an executor keep their order, whatever the jitter: the plan relies on it."""
    engine, seen = Engine(), []
    model = NetworkModel(delay_ns=100, jitter_ns=1000)
    link = Network(engine, model, random.Random(1)).link()
    for number in range(200):
        engine.at(number, link.send, 0, seen.append, number)
    engine.run(until_ns=10**9)

    assert seen == list(range(200))


def test_large_messages_wait_for_each_other():
    """Two inputs of 1 ms each on one link take 2 ms: bandwidth is shared."""
    engine, seen = Engine(), []
    model = NetworkModel(delay_ns=100, jitter_ns=0, bytes_per_second=1_000_000)
    link = Network(engine, model, random.Random(1)).link()
    for _ in range(2):
        link.send(1000, lambda: seen.append(engine.now_ns))
    engine.run(until_ns=10**9)

    assert seen == [1_000_100, 2_000_100]
