"""Drawing: the few forms of panels that experiments share."""

from collections.abc import Callable, Sequence

from cw.sim.experiments.experiment import POLICIES
from cw.sim.plots import Series, policy_colour


def policy_lines(
    policies: Sequence[str], x: Sequence[float], value: Callable[[str, int], float]
) -> tuple[Series, ...]:
    """Make a line for each policy, in its own colour.

    Args:
        policies: As typed.
        x: Of all lines.
        value: Given a policy and the index into `x`, says y.
    """
    known = [*POLICIES, *(name for name in policies if name not in POLICIES)]
    return tuple(
        Series(
            label=policy,
            x=tuple(x),
            y=tuple(value(policy, index) for index in range(len(x))),
            colour=policy_colour(policy, known),
        )
        for policy in policies
    )
