"""Shows results: as tables for people, as JSON for programs, and as files to keep.

Neighbours: `experiments/` and `command.py`, whose results these are; `plots.py` draws the charts.
"""

import csv
import json
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from cw.sim import plots
from cw.sim.experiments.experiment import Cell, Result, Table

_WIDTH_MAX: Final = 400
"""Columns where there is no terminal: no row is wrapped."""


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table on stdout, never wrapped, so that it can be compared and cut out."""
    out = console or Console(highlight=False, width=_WIDTH_MAX, soft_wrap=True)
    shown = RichTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, title_style="bold")
    for place, name in enumerate(table.columns):
        numbers = any(isinstance(row[place], int | float) for row in table.rows)
        shown.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(format_cell(cell) for cell in row))
    out.print(shown)
    for note in table.notes:
        out.print(f"  {note}", style="dim")
    out.print()


def format_cell(cell: Cell) -> str:
    """Write one cell: thousands are grouped, what there is not is a dash."""
    match cell:
        case None:
            return "-"
        case str():
            return cell
        case float() if abs(cell) >= 1000:
            return f"{cell:,.0f}"
        case _:
            return f"{cell:,}"


def result_as_json(name: str, result: Result) -> dict[str, Any]:
    """Give an experiment's figures as JSON can hold them: each table as a list of rows by name."""
    return {
        "experiment": name,
        "set_up": result.set_up,
        "tables": {
            table.name: [dict(zip(table.columns, row, strict=True)) for row in table.rows]
            for table in result.tables
        },
    }


def write_result(name: str, result: Result, folder: Path) -> list[Path]:
    """Write an experiment's tables (CSV, JSON and one page of Markdown) and charts (PNG, SVG).

    Raises:
        ConfigError: There are charts, and matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [write_csv(table, folder) for table in result.tables]
    drawn = [path for chart in result.charts for path in plots.draw(chart, folder)]
    page, data = folder / f"{name}.md", folder / f"{name}.json"
    page.write_text(markdown(name, result), encoding="utf-8")
    data.write_text(json.dumps(result_as_json(name, result), indent=1) + "\n", encoding="utf-8")
    return [*written, *drawn, page, data]


def write_csv(table: Table, folder: Path) -> Path:
    """Write a table as CSV, its numbers as they are."""
    path = folder / f"{table.name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows)
    return path


def markdown(name: str, result: Result) -> str:
    """Write a result as a page: what was run, its tables, its pictures."""
    lines = [f"# {name}", "", result.set_up, ""]
    for table in result.tables:
        numbers = [
            any(isinstance(row[place], int | float) for row in table.rows)
            for place in range(len(table.columns))
        ]
        lines += [f"## {table.title}", "", f"| {' | '.join(table.columns)} |"]
        lines.append(f"|{'|'.join('---:' if right else '---' for right in numbers)}|")
        lines += [f"| {' | '.join(format_cell(cell) for cell in row)} |" for row in table.rows]
        lines += ["", *table.notes, ""]
    for chart in result.charts:
        lines += [f"![{chart.title}]({chart.name}.svg)", ""]
    return "\n".join(lines)
