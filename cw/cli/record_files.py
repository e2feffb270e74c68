"""What the commands that read action records share: where these lie, how reading goes."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cw.cli.common import DEFAULT_FOLDER, people, say
from cw.errors import ConfigError
from cw.records import files
from cw.records.files import Tally
from cw.units import MiB

_NAMES_SHOWN: Final = 8
_SHOWN_FROM_BYTES: Final = 16 * MiB
"""Reading less takes under a second."""


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Give a command the option that says whose records are meant."""
    parser.add_argument(
        "--folder",
        type=Path,
        help="a cluster's folder (what 'up' got as --dir), running or not; by default that of "
        "'tools/devcluster up' in this checkout",
    )


def cluster_folder(given: Path | None) -> Path:
    """Say in which folder a cluster keeps its records, be it up or down.

    Raises:
        ConfigError: None was named, and none was ever started here.
    """
    if given is not None:
        if not given.is_dir():
            raise ConfigError(f"expected a cluster's folder, found none at {given}")
        return given
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / DEFAULT_FOLDER / "logs").is_dir():
            return folder / DEFAULT_FOLDER
    raise ConfigError(
        "no cluster found: start one with 'tools/devcluster up' in this checkout, or name the "
        "folder of another with --folder"
    )


def record_files(folder: Path) -> list[Path]:
    """List a cluster's files of records.

    Raises:
        ConfigError: There are none yet.
    """
    found = files.find(folder)
    if not found:
        raise ConfigError(
            f"no action records in {folder / 'logs'} yet: executors write them once they have "
            "something to do; add a model ('cw model add') and send some load ('cw bench')"
        )
    return found


@contextmanager
def reading(paths: Sequence[Path], what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar where reading takes long; gives what it is to be told of."""
    total_bytes = sum(path.stat().st_size for path in paths if path.exists())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(
        *columns, TimeRemainingColumn(), console=people, disable=total_bytes < _SHOWN_FROM_BYTES
    ) as progress:
        task = progress.add_task(what, total=total_bytes)

        def advance(size_bytes: int) -> None:
            progress.advance(task, size_bytes)

        yield advance


def say_what_was_skipped(tally: Tally) -> None:
    """Tell of lines that were no records: whoever counts must know what is missing."""
    if tally.damaged:
        say(f"skipped {tally.damaged} damaged line(s): an executor or its disk was stopped there")
    if tally.foreign:
        say(f"skipped {tally.foreign} line(s) that another version of cw wrote, with other columns")


def some_of(names: Sequence[str]) -> str:
    """List names for people: the first few, and how many there are beside them."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return shown if more <= 0 else f"{shown} and {more} more"
