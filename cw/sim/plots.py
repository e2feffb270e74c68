"""Plots: what a chart says, as plain values, and the one place that draws them.

An experiment (or `cw plan`) describes a `Chart`; `draw` writes it as PNG and SVG. The description
needs no drawing library, crosses processes, and can be tested; matplotlib is imported only when
something is drawn, since serving must not need it.
"""

import importlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from cw.errors import ConfigError

COLOURS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#B8860B",
    "#555555",
    "#882255",
)
"""Told apart by the colour-blind, too. Source: Okabe and Ito (2008), its yellow darkened; the last
one is Tol's wine."""
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_MARKED_MAX: Final = 40
"""A line with more points than this is drawn without markers: they would cover it."""
_PANEL_HEIGHT_INCHES: Final = 3.6
_HEADROOM: Final = 1.06
"""Above the largest value; where bars have a legend over them, the next is taken."""
_LEGEND_HEADROOM: Final = 1.3
_DPI: Final = 130


@attrs.frozen(kw_only=True)
class Series:
    """One named line (or, in a panel of bars, one bar of each group)."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    """As many as `x`; a NaN leaves a gap."""
    dashed: bool = False
    """Of what is no result: a bound, an offered load."""
    points_only: bool = False
    labels: tuple[str, ...] = ()
    """Written beside the points; one for each, or none at all."""
    colour: int | None = None
    """Index into `COLOURS`, so that a policy has one colour in all panels; None: by position."""

    def __attrs_post_init__(self) -> None:
        """Check that x, y and the labels fit together."""
        assert len(self.x) == len(self.y), f"{self.label}: {len(self.x)} x, {len(self.y)} y"
        assert len(self.labels) in (0, len(self.x)), f"{self.label}: {len(self.labels)} labels"


@attrs.frozen(kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_log: bool = False
    y_log: bool = False
    y_symlog: bool = False
    """Logarithmic above 1, linear below: for counts of which many are 0."""
    y_min: float | None = 0.0
    y_max: float | None = None
    ticks: tuple[str, ...] = ()
    """Names of the groups of bars at x = 0, 1, ...: the panel then holds bars, not lines."""
    x_ticks: tuple[float, ...] = ()
    """Where the x axis is marked, in place of matplotlib's choice."""
    marks: tuple[tuple[float, str], ...] = ()
    """Instants worth a vertical line, with their names."""


@attrs.frozen(kw_only=True)
class Chart:
    """One picture."""

    name: str
    """Of its files, without a suffix."""
    title: str
    panels: tuple[Panel, ...]
    columns: int = 1
    panel_inches: float = 6.4
    """Width of a panel; many groups of bars need more."""


def draw(chart: Chart, folder: Path) -> list[Path]:
    """Draw a chart into ``NAME.png`` and ``NAME.svg``.

    The same chart gives the same bytes with the same version of matplotlib.

    Returns:
        The files.

    Raises:
        ConfigError: Matplotlib is not installed; the message says how to install it.
    """
    pyplot = open_pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    rows = math.ceil(len(chart.panels) / chart.columns)
    width, height = chart.panel_inches, _PANEL_HEIGHT_INCHES
    figure, axes = pyplot.subplots(
        rows,
        chart.columns,
        figsize=(width * chart.columns, height * rows + 0.4),
        squeeze=False,
        layout="constrained",
    )
    try:
        figure.suptitle(chart.title, fontsize=11, fontweight="bold")
        for index, ax in enumerate(axes.flat):
            if index < len(chart.panels):
                _draw_panel(ax, chart.panels[index])
            else:
                ax.set_visible(False)
        paths = [folder / f"{chart.name}.png", folder / f"{chart.name}.svg"]
        figure.savefig(paths[0], dpi=_DPI, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    finally:
        pyplot.close(figure)
    return paths


def require() -> None:
    """Find out whether charts can be drawn, before minutes are spent on what they would show.

    Raises:
        ConfigError: They can't.
    """
    open_pyplot()


def open_pyplot() -> Any:
    """Import matplotlib's pyplot and set the looks that all pictures of cw share.

    Raises:
        ConfigError: It is not installed; the message says how to install it.
    """
    # Its cache of fonts goes where it can always be written.
    os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "cw-matplotlib"))
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError as exc:
        raise ConfigError(
            f"plots need matplotlib, which is not installed ({exc}): pip install 'cw[plots]', "
            "or leave out the option that asks for plots"
        ) from exc
    pyplot.rcParams.update(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 10,
            "font.size": 9,
            "grid.alpha": 0.3,
            "legend.fontsize": 8,
            "legend.framealpha": 0.9,
            "svg.hashsalt": "cw",  # else ids in SVG files differ from run to run
        }
    )
    return pyplot


def _draw_panel(ax: Any, panel: Panel) -> None:
    ax.set_title(panel.title, loc="left")
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.set_axisbelow(True)
    if panel.ticks:
        _draw_bars(ax, panel)
    else:
        _draw_lines(ax, panel)
    _scale(ax, panel)
    for place, (at, name) in enumerate(panel.marks):
        ax.axvline(at, color="#777777", linewidth=0.8, linestyle=":")
        ax.annotate(
            name,
            (at, 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 4 + 10 * place),
            textcoords="offset points",
            fontsize=7,
            color="#555555",
        )
    if len(panel.series) > 1 and panel.ticks:
        ax.legend(loc="upper left", ncols=min(4, len(panel.series)))
    elif len(panel.series) > 1:
        ax.legend(loc="best")


def _draw_lines(ax: Any, panel: Panel) -> None:
    for index, one in enumerate(panel.series):
        look = index if one.colour is None else one.colour
        colour = COLOURS[look % len(COLOURS)]
        marked = len(one.x) <= _MARKED_MAX and not one.dashed
        ax.plot(
            one.x,
            one.y,
            label=one.label,
            color="#333333" if one.dashed else colour,
            linestyle="none" if one.points_only else "--" if one.dashed else "-",
            linewidth=1.2 if one.dashed or not marked else 1.6,
            marker=_MARKERS[look % len(_MARKERS)] if marked or one.points_only else "",
            markersize=4.5,
        )
        for x, y, text in zip(one.x, one.y, one.labels, strict=False):
            ax.annotate(text, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)


def _draw_bars(ax: Any, panel: Panel) -> None:
    width = 0.8 / max(1, len(panel.series))
    for index, one in enumerate(panel.series):
        look = index if one.colour is None else one.colour
        offset = (index - (len(panel.series) - 1) / 2) * width
        ax.bar(
            [x + offset for x in one.x],
            one.y,
            width,
            label=one.label,
            color="#AAAAAA" if one.dashed else COLOURS[look % len(COLOURS)],
        )
    ax.set_xticks(range(len(panel.ticks)), panel.ticks)
    if sum(len(name) for name in panel.ticks) > 60:
        ax.tick_params("x", labelrotation=40)
    ax.grid(visible=False, axis="x")


def _scale(ax: Any, panel: Panel) -> None:
    if panel.x_log:
        ax.set_xscale("log")
    if panel.y_log:
        ax.set_yscale("log")
    elif panel.y_symlog:
        ax.set_yscale("symlog", linthresh=1.0)
    if panel.x_ticks:
        values = [x for one in panel.series for x in one.x]
        low, high = min(values, default=0.0), max(values, default=0.0)
        # A tick outside of what is shown would stretch the axis to itself.
        ticks = [tick for tick in panel.x_ticks if 0.8 * low <= tick <= 1.2 * high]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    ax.yaxis.set_major_formatter(_thousands)
    if panel.y_log or panel.y_min is None:
        return
    largest = max((y for one in panel.series for y in one.y if math.isfinite(y)), default=0.0)
    room = _LEGEND_HEADROOM if panel.ticks and len(panel.series) > 1 else _HEADROOM
    ax.set_ylim(panel.y_min, panel.y_max or max(panel.y_min + 1, largest * room))


def _thousands(value: float, place: int) -> str:
    del place
    return f"{value:,.6g}"


def policy_colour(policy: str, policies: Sequence[str]) -> int:
    """Give each policy its colour for good: `default` the first, the others in their order."""
    names = ["default", *(name for name in policies if name != "default")]
    return names.index(policy)
