"""What a profile looks like: a line of text per batch size, and a chart of all."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from cw.records.profiles import BatchProfile
from cw.sim.plots import Chart, Panel, Series
from cw.units import MS

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_TEXT_COLUMNS: Final = 48
_ESTIMATE: Final = "│"
_TAIL_SHARE: Final = 0.01
"""Up to so much of the runs may lie outside of a text histogram: one outlier would flatten it."""
_POINTS_MAX: Final = 400
_PANELS_MAX: Final = 8


def histogram(profile: BatchProfile) -> str:
    """Draw one batch size's durations in a line of text, with the estimate marked.

    It spans all but the slowest hundredth of the runs, and the estimate; the ends are written
    beside it, in ms.
    """
    ordered_ns = profile.ordered_ns
    low_ns = min(int(ordered_ns[0]), profile.estimate_ns)
    at = min(len(ordered_ns) - 1, int((1 - _TAIL_SHARE) * len(ordered_ns)))
    high_ns = max(int(ordered_ns[at]), profile.estimate_ns, low_ns + _TEXT_COLUMNS)
    counts, _ = np.histogram(ordered_ns, bins=_TEXT_COLUMNS, range=(low_ns, high_ns))
    top = len(_BLOCKS) - 1
    # What is there at all is seen: a bin of one run in a thousand is the interesting one.
    heights = -(-counts * top // max(1, int(counts.max())))
    cells = [_BLOCKS[height] for height in heights.tolist()]
    mark = (profile.estimate_ns - low_ns) * _TEXT_COLUMNS // (high_ns - low_ns)
    cells.insert(min(mark + 1, _TEXT_COLUMNS), _ESTIMATE)
    return f"{low_ns / MS:9.3f} {''.join(cells)} {high_ns / MS:.3f}"


def chart_of(model: str, profiles: Sequence[BatchProfile]) -> Chart:
    """Describe a plot: per device and batch size, which share of runs was over by when."""
    shown = profiles[:_PANELS_MAX]
    return Chart(
        name="profile",
        title=f"{model}: durations on the device"
        + (f" ({len(shown)} of {len(profiles)})" if len(shown) < len(profiles) else ""),
        panels=tuple(_panel(profile) for profile in shown),
        columns=2 if len(shown) > 1 else 1,
    )


def _panel(profile: BatchProfile) -> Panel:
    count = profile.runs
    # All of the tail and some of the rest: the tail is what a promise hangs on.
    tail = np.arange(max(0, count - _POINTS_MAX), count)
    body = np.linspace(0, count - 1, _POINTS_MAX).astype(np.int64)
    picked = np.unique(np.concatenate((body, tail)))
    return Panel(
        title=f"batch {profile.batch_size}, {profile.device}: {count:,} runs",
        x_label="ms",
        y_label="share of runs that took so long",
        series=(
            Series(
                label="measured",
                x=tuple((profile.ordered_ns[picked] / MS).tolist()),
                # Itself included, so that the slowest has a place on a logarithmic axis.
                y=tuple(((count - picked) / count).tolist()),
            ),
        ),
        y_log=True,
        marks=((profile.estimate_ns / MS, "estimate"),),
    )
