"""What an experiment takes and gives: plain values, so that it can be printed, drawn and tested.

Each experiment is a module of this package with a docstring that tells its set-up, what is
published about it and where ours deviates, and a function ``run(options, pool) -> Result``.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Final, Protocol

import attrs

from cw.config import SchedulerSettings, settings_from
from cw.errors import ConfigError
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart
from cw.units import SECOND

Cell = str | int | float | None
"""None: there is no such figure."""

POLICIES: Final = ("default", "clockwork", "symphony", "shepherd", "nexus", "fcfs")


@attrs.frozen(kw_only=True)
class Options:
    """How an experiment is to be run."""

    quick: bool = False
    """Shorter traffic, and where an experiment says so fewer cases: for a look, not for a claim."""
    time_scale: float = attrs.field(default=1.0, validator=attrs.validators.gt(0.0))
    """Multiplies every duration of traffic."""
    seeds: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    """How many, from 1 on; None: as the experiment has it."""
    policies: tuple[str, ...] = ()
    """As `settings_for` reads them; empty: those of the experiment."""
    minutes: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0.0))
    )
    """Of traffic, where an experiment runs for minutes."""
    only: tuple[str, ...] = ()
    """Names of the rows or cases to run; empty: all."""

    def duration_ns(self, full_s: float, quick_s: float) -> int:
        """Give the traffic's duration, at least a tenth of a second."""
        seconds = quick_s if self.quick else full_s
        return max(SECOND // 10, round(seconds * self.time_scale * SECOND))

    def seed_range(self, full: int, quick: int = 1) -> range:
        """Give the seeds, from 1 on."""
        return range(1, 1 + (self.seeds or (quick if self.quick else full)))

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Give those of the names that are to be run.

        Raises:
            ConfigError: One was asked for that does not exist.
        """
        unknown = set(self.only) - set(names)
        if unknown:
            raise ConfigError(
                f"--only: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}"
            )
        return [name for name in names if not self.only or name in self.only]

    def policies_or(self, *names: str) -> tuple[str, ...]:
        """Give the policies to run."""
        return self.policies or names


@attrs.frozen(kw_only=True)
class Table:
    """Figures side by side."""

    name: str
    """Of its CSV file, without a suffix."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Check that each row has a cell for each column."""
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.name}: {row} does not fit {self.columns}"


@attrs.frozen(kw_only=True)
class Result:
    """What an experiment found."""

    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    set_up: str
    """What was run, with the seeds and durations of this very run."""


class Experiment(Protocol):
    """One module of this package."""

    def run(self, options: Options, pool: Pool) -> Result:
        """Run it.

        Raises:
            ConfigError: The options ask for what it does not have.
            InvariantBroken: Something happened in a run that must never happen.
        """
        ...


def summary_of(experiment: object) -> str:
    """Give the first line of an experiment's docstring."""
    return (inspect.getdoc(experiment) or "").partition("\n")[0]


def settings_for(policy: str, base: SchedulerSettings) -> SchedulerSettings:
    """Read a policy as typed: ``NAME`` or ``NAME:KEY=VALUE:KEY=VALUE``.

    Raises:
        ConfigError: A setting is unknown, or does not fit.
    """
    name, *changes = policy.split(":")
    table: dict[str, str | int | float] = {"policy": name}
    for change in changes:
        key, _, value = change.partition("=")
        table[key] = setting_value(value)
    given = settings_from(table, SchedulerSettings, where=policy)
    changed = {
        field.name: getattr(given, field.name)
        for field in attrs.fields(SchedulerSettings)
        if field.name.removesuffix("_ns") in table
    }
    return attrs.evolve(base, **changed)


def setting_value(text: str) -> str | int | float:
    """Turn what was typed behind a setting's ``=`` into what TOML would have made of it."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


def percent(share: float | None, digits: int = 1) -> float | None:
    """Turn a share into per cent with so many digits."""
    return None if share is None or math.isnan(share) else round(100 * share, digits)
