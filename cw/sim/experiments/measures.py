"""Measures: what several seeds of one case come to, and the columns that every table shares."""

from collections.abc import Sequence
from typing import Final

import attrs

from cw.sim.experiments.experiment import Cell, percent
from cw.sim.report import Report

COLUMNS: Final = (
    "offered /s",
    "goodput /s",
    "in time %",
    "% of bound",
    "from-to",
    "least model %",
    "p10 model %",
    "median model %",
    "broken",
)
"""See `Measures` for each."""

NOTE: Final = (
    "% of bound: kept by what no scheduler could exceed, over all seeds; from-to: of single seeds. "
    "Models: share in time of the least, the p10 and the median one (of the worst seed; means of "
    "the seeds). Broken: promises, of all seeds."
)


@attrs.frozen(kw_only=True)
class Measures:
    """Several seeds of one case together."""

    offered_rps: float
    goodput_rps: float
    kept_share: float
    """Kept, of what was offered."""
    warm_share: float
    """The same without the first second, in which models are loaded; in shorter runs all of it."""
    bound_rps: float
    share_of_bound: float
    worst_share_of_bound: float
    best_share_of_bound: float
    least_model_share: float
    p10_model_share: float
    median_model_share: float
    broken: int
    requests: int

    @property
    def broken_share(self) -> float:
        """Broken promises, of what was offered."""
        return self.broken / self.requests if self.requests else 0.0

    def cells(self) -> tuple[Cell, ...]:
        """Give the cells under `COLUMNS`."""
        worst, best = self.worst_share_of_bound, self.best_share_of_bound
        return (
            round(self.offered_rps, 1),
            round(self.goodput_rps, 1),
            percent(self.kept_share, 2),
            percent(self.share_of_bound),
            f"{100 * worst:.1f}-{100 * best:.1f}",
            percent(self.least_model_share),
            percent(self.p10_model_share),
            percent(self.median_model_share),
            self.broken,
        )


def measure(reports: Sequence[Report]) -> Measures:
    """Sum up the runs of one case; each has the same length."""
    assert reports, "expected at least one run"
    count = len(reports)
    requests = sum(report.requests for report in reports)
    kept = sum(report.kept for report in reports)
    bound = sum(report.bound_rps * report.sim_seconds for report in reports)
    return Measures(
        offered_rps=sum(report.offered_rps for report in reports) / count,
        goodput_rps=sum(report.goodput_rps for report in reports) / count,
        kept_share=kept / requests if requests else 1.0,
        warm_share=_warm_share(reports),
        bound_rps=sum(report.bound_rps for report in reports) / count,
        share_of_bound=kept / bound if bound else 1.0,
        worst_share_of_bound=min(report.share_of_bound for report in reports),
        best_share_of_bound=max(report.share_of_bound for report in reports),
        least_model_share=min(report.least_model_share for report in reports),
        p10_model_share=sum(report.p10_model_share for report in reports) / count,
        median_model_share=sum(report.median_model_share for report in reports) / count,
        broken=sum(report.broken for report in reports),
        requests=requests,
    )


def _warm_share(reports: Sequence[Report]) -> float:
    first = 1 if all(len(report.series.offered) > 1 for report in reports) else 0
    offered = sum(sum(report.series.offered[first:]) for report in reports)
    kept = sum(sum(report.series.kept[first:]) for report in reports)
    return kept / offered if offered else 1.0


def grouped(reports: Sequence[Report], size: int) -> list[Sequence[Report]]:
    """Cut the reports of case after case, `size` seeds each, into groups."""
    assert len(reports) % size == 0, f"{len(reports)} reports don't make groups of {size}"
    return [reports[at : at + size] for at in range(0, len(reports), size)]


def described(seeds: Sequence[int]) -> str:
    """Say which seeds were run."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
