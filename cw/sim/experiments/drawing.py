"""Drawing: the few forms of panels that experiments and comparisons share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from cw.sim.experiments.experiment import POLICIES
from cw.sim.plots import Panel, Series, policy_colour
from cw.sim.report import Report

_IN_MINUTES_FROM_S: Final = 300
_SERIES: Final = (
    ("Goodput", "answers in time per second", "kept", 1),
    ("Latency of kept answers, 99th percentile", "ms", "p99_ms", 1),
    ("GPUs", "busy with INFERs (%)", "utilisation", 100),
    ("Links (PCIe)", "busy with LOADs (%)", "load_utilisation", 100),
    ("Refused", "per second", "refused", 1),
    ("Promises broken", "per second", "broken", 1),
    ("Cold starts", "LOADs per second", "cold_starts", 1),
)
"""Title, unit, field of `cw.sim.report.Series`, factor."""


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


@attrs.frozen(kw_only=True)
class Timeline:
    """Runs of equal length, second by second."""

    reports: Mapping[str, Report]
    """By policy, as typed."""
    points: int = 120
    """At most so many of a line; each is then the mean of what lies between."""

    @property
    def seconds(self) -> int:
        """How long the runs are."""
        return min(len(report.series.offered) for report in self.reports.values())

    def panels(
        self, *, leave_out: Sequence[str] = (), marks: Sequence[tuple[float, str]] = ()
    ) -> tuple[Panel, ...]:
        """Make a panel for each of a run's series.

        Args:
            leave_out: Fields of `cw.sim.report.Series` that say nothing here.
            marks: Instants (s) worth a line, with their names.
        """
        per = 60 if self.seconds > _IN_MINUTES_FROM_S else 1
        step = max(1, self.seconds // self.points)
        starts = range(0, self.seconds, step)
        x = tuple(at / per for at in starts)

        def mean(policy: str, name: str, at: int) -> float:
            values: tuple[float, ...] = getattr(self.reports[policy].series, name)[at : at + step]
            return sum(values) / len(values)

        first = next(iter(self.reports))
        offered = tuple(mean(first, "offered", at) for at in starts)
        return tuple(
            Panel(
                title=title,
                x_label="time (minutes)" if per == 60 else "time (s)",
                y_label=y_label,
                series=(
                    *policy_lines(
                        list(self.reports),
                        x,
                        lambda policy, place, name=name, factor=factor: (  # type: ignore[misc]
                            factor * mean(policy, name, starts[place])
                        ),
                    ),
                    *([Series(label="offered", x=x, y=offered, dashed=True)] * (name == "kept")),
                ),
                marks=tuple((at / per, what) for at, what in marks),
            )
            for title, y_label, name, factor in _SERIES
            if name not in leave_out
        )
