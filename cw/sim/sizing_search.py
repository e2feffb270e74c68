"""Searches over simulations: the smallest number that holds, the largest factor that does.

Pure: what holds is asked of whoever calls. Two cases are asked at a time, so that they may be run
side by side; that it is two does not depend on the machine, so the answer doesn't, either.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

FACTOR_MAX: Final = 1024.0
"""No trace is made to grow by more."""


def smallest(holds: Callable[[Sequence[int]], list[bool]], *, first: int, last: int) -> int | None:
    """Find the smallest number from `first` to `last` that holds, if more never does worse.

    Args:
        holds: Says of each number whether it holds; raises where none ever will.
        first: Known: no smaller number holds.
        last: No greater number is tried.

    Returns:
        The number; None if not even `last` holds.
    """
    misses, step, here = first - 1, 1, [first, first + 1]
    while misses < last:
        here = [number for number in here if number < last] or [last]
        answers = holds(here)
        for number, held in zip(here, answers, strict=True):
            if held:
                return _between(holds, misses, number)
            misses = number
        here = [misses + step, misses + 3 * step]
        step *= 4
    return None


def _between(holds: Callable[[Sequence[int]], list[bool]], misses: int, held: int) -> int:
    while held - misses > 1:
        third = (held - misses) / 3
        here = sorted({misses + max(1, round(third)), held - max(1, round(third))})
        for number, answer in zip(here, holds(here), strict=True):
            if answer:
                held = number
                break
            misses = number
    return held


def largest_factor(
    holds: Callable[[Sequence[float]], list[bool]], *, precision: float
) -> tuple[float, float | None]:
    """Find by how much something may grow.

    Args:
        holds: Says of each factor above 1 whether it holds; 1 is known to hold.
        precision: The two factors that are returned are no further apart, e.g. 1.02.

    Returns:
        The largest factor found to hold, and the smallest found to miss; None if all hold up to
        `FACTOR_MAX`.
    """
    held, missed = 1.0, None
    here = [1.1, 1.3]
    while missed is None:
        for factor, answer in zip(here, holds(here), strict=True):
            if not answer:
                missed = factor
                break
            held = factor
        if held >= FACTOR_MAX:
            return held, None
        here = [1.5 * held, 2.5 * held]
    while missed / held > precision:
        third = (missed / held) ** (1 / 3)
        here = [held * third, held * third**2]
        if third < math.sqrt(precision):  # one in the middle is enough
            here = [math.sqrt(held * missed)]
        for factor, answer in zip(here, holds(here), strict=True):
            if not answer:
                missed = factor
                break
            held = factor
    return held, missed
