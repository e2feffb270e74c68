"""The client's own part of an SLO: what the gateway can't see is taken off beforehand."""

from cw.client import OutsideTime
from cw.units import MS


def test_nothing_is_taken_off_before_anything_is_known() -> None:
    """A first call gets the whole of its SLO, and an absurd SLO goes to the gateway as it is."""
    outside = OutsideTime()
    assert outside.allowance_ns(50 * MS) == 0

    outside.learn(12 * MS, 10 * MS)
    assert outside.allowance_ns(0) == 0
    assert outside.allowance_ns(-MS) == -0


def test_what_calls_took_outside_the_gateway_is_taken_off() -> None:
    """Without it an answer handed over at the last moment is late by the client's clock."""
    outside = OutsideTime()
    for whole_ms in range(10, 20):
        outside.learn(whole_ms * MS, 9 * MS)

    assert outside.allowance_ns(100 * MS) == 10 * MS


def test_at_most_a_quarter_is_taken_off() -> None:
    """After a stall the client must not ask for what nobody can do."""
    outside = OutsideTime()
    outside.learn(900 * MS, MS)

    assert outside.allowance_ns(40 * MS) == 10 * MS


def test_a_stall_is_forgotten_after_as_many_calls_as_are_remembered() -> None:
    """The wire is as it was a moment ago, not as it was at its worst."""
    outside = OutsideTime()
    outside.learn(900 * MS, MS)
    for _ in range(64):
        outside.learn(2 * MS, MS)

    assert outside.allowance_ns(40 * MS) == MS
