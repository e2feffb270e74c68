"""A picture of one executor's lanes for a moment: plans above what came true, joined by lines.

The same boxes as in `trace`, for a page or a message. A full minute is better looked at in a trace.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cw.actors.telemetry import ActionRecord
from cw.errors import ConfigError
from cw.messages import Outcome
from cw.sim.plots import COLOURS, open_pyplot
from cw.units import MS

_ACTIONS_MAX: Final = 2_000
"""More boxes than this are thinner than a line."""
_HEIGHT: Final = 0.8
_LEGEND_MAX: Final = len(COLOURS)
_ROWS: Final = {
    ("INFER", "planned"): 4.0,
    ("INFER", "actual"): 3.0,
    ("LOAD", "planned"): 1.0,
    ("LOAD", "actual"): 0.0,
}
"""Where each row lies, from below."""
_OK: Final = Outcome.OK.value


def draw_lanes(records: Sequence[ActionRecord], out: Path, *, executor: str | None = None) -> None:
    """Draw an executor's INFERs and LOADs.

    Args:
        records: Of a moment; other executors' are left out.
        out: A ``.png`` or ``.svg`` file.
        executor: Its name; None means the one with most actions.

    Raises:
        ConfigError: There is nothing to draw, or far too much; or matplotlib is not installed.
    """
    counts = Counter(record.executor for record in records)
    name = executor or counts.most_common(1)[0][0]
    own = [it for it in records if it.executor == name and it.kind in {"INFER", "LOAD"}]
    if not own:
        raise ConfigError(
            f"expected INFERs or LOADs of the executor {name!r}, got only actions of "
            f"{', '.join(sorted(counts))}"
        )
    if len(own) > _ACTIONS_MAX:
        raise ConfigError(
            f"expected at most {_ACTIONS_MAX:,} actions to draw, got {len(own):,}: take a shorter "
            "--last, or export a trace"
        )
    pyplot = open_pyplot()
    figure, ax = pyplot.subplots(figsize=(11, 3.2), layout="constrained")
    try:
        _draw(ax, own)
        ax.set_title(f"{name} ({own[0].device})", loc="left")
        figure.savefig(out, dpi=130)
    finally:
        pyplot.close(figure)


def _draw(ax: Any, records: Sequence[ActionRecord]) -> None:
    begin_ns = min(min(it.planned_start_ns, it.start_ns) for it in records)
    popular = Counter(record.model for record in records).most_common(_LEGEND_MAX)
    colours = {model: COLOURS[at] for at, (model, _) in enumerate(popular)}
    named: set[str] = set()
    for record in records:
        colour = colours.get(record.model, "#AAAAAA")
        label = None if record.model in named or record.model not in colours else record.model
        named.add(record.model)
        planned_ms = (record.planned_start_ns - begin_ns) / MS
        start_ms = (record.start_ns - begin_ns) / MS
        planned_row, row = _ROWS[record.kind, "planned"], _ROWS[record.kind, "actual"]
        look = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.4}
        planned = [(planned_ms, record.expected_ns / MS)]
        ax.broken_barh(planned, (planned_row, _HEIGHT), alpha=0.55, **look)
        if record.outcome != _OK:
            ax.plot([start_ms], [row + _HEIGHT / 2], "x", color="#B00020", markersize=5)
            continue
        took_ms = (record.end_ns - record.start_ns) / MS
        ax.broken_barh([(start_ms, took_ms)], (row, _HEIGHT), label=label, **look)
        ax.plot([planned_ms, start_ms], [planned_row, row + _HEIGHT], color=colour, linewidth=0.8)
    rows = {(it.kind, when) for it in records for when in ("planned", "actual")}
    shown = [(row, at) for row, at in _ROWS.items() if row in rows]
    ax.set_yticks([at + _HEIGHT / 2 for _, at in shown], [" ".join(row) for row, _ in shown])
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("ms, since the first start")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
