"""What a benchmark says: tables, and figures beside what they are to be."""

from typing import Any

import attrs
from rich.console import Console
from rich.table import Table


@attrs.frozen(kw_only=True)
class Figure:
    """One number that has an aim.

    Attributes:
        name: What it is of.
        value: In `unit`.
        unit: ``us``, ``ms``, ``%``, ``MiB`` or empty for a ratio.
        at_most: The aim, for what should be small.
        at_least: The aim, for what should be large.
    """

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the aim is met; true of a figure without one."""
        if self.at_most is not None and self.value > self.at_most:
            return False
        return self.at_least is None or self.value >= self.at_least

    @property
    def aim(self) -> str:
        """The aim in words."""
        if self.at_most is not None:
            return f"at most {self.at_most:g} {self.unit}".strip()
        if self.at_least is not None:
            return f"at least {self.at_least:g} {self.unit}".strip()
        return ""


@attrs.frozen(kw_only=True)
class Report:
    """A benchmark's result.

    Attributes:
        title: One line.
        columns: Of the table.
        rows: As many words as there are columns.
        figures: What is to be reached.
        notes: What one should know to read it.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Make plain data of it."""
        return {
            "title": self.title,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "figures": [
                {**attrs.asdict(figure), "reached": figure.reached} for figure in self.figures
            ],
            "notes": list(self.notes),
        }

    def show(self, console: Console) -> None:
        """Print it for people."""
        console.print(f"\n[bold]{self.title}[/bold]")
        if self.rows:
            table = _table(*self.columns)
            for row in self.rows:
                table.add_row(*row)
            console.print(table)
        if self.figures:
            table = _table("figure", "found", "aim", "")
            for figure in self.figures:
                verdict = "[green]reached[/green]" if figure.reached else "[red]not reached[/red]"
                number = f"{figure.value:.4g} {figure.unit}".strip()
                table.add_row(figure.name, number, figure.aim, verdict if figure.aim else "")
            console.print(table)
        for note in self.notes:
            console.print(f"  [dim]{note}[/dim]")


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, header_style="dim", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    return table


def quantile(values: list[int], part: float) -> int:
    """Return the nearest-rank quantile of durations; 0 of none."""
    if not values:
        return 0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
