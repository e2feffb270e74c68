"""What an experiment measures, and what follows from it."""

import enum
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from cw.units import US

YES: Final = 1.0
NO: Final = 0.0


@attrs.frozen(kw_only=True)
class Measurement:
    """One number.

    Attributes:
        name: What it is of; unlike any other of its experiment.
        value: In `unit`; of a yes-or-no question `YES` or `NO`.
        unit: ``us``, ``ms``, ``GB/s``, ``MiB``, ``yes/no``, or empty for a ratio or a count.
        note: What one should know to read it.
    """

    name: str
    value: float
    unit: str = ""
    note: str = ""


class NotMeasured(Exception):
    """A verdict asked for a number that the experiment did not give: the experiment is broken."""


class Figures:
    """An experiment's measurements, by name.

    Args:
        measurements: As `run` returned them.
    """

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._values: Final = {found.name: found.value for found in measurements}

    def __getitem__(self, name: str) -> float:
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(self._values) or "nothing"
            raise NotMeasured(f"expected a measurement of {name!r}, got {known}") from None

    def holds(self, name: str) -> bool:
        """Say whether a yes-or-no question was answered by yes."""
        return self[name] == YES


class Outcome(enum.Enum):
    """What a verdict asks for."""

    PASS = "pass"
    """The device's defaults are right for this card."""
    SET = "set"
    """All works; a setting other than the default suits this card better."""
    FALLBACK = "fallback"
    """The way that the device goes does not work well here: another one is named."""
    FAIL = "fail"
    """Something is wrong, or could not be measured."""

    @property
    def is_good(self) -> bool:
        """Whether a check that ends so has passed."""
        return self in (Outcome.PASS, Outcome.SET)


@attrs.frozen
class Verdict:
    """What the figures speak for, in a word and in a sentence."""

    outcome: Outcome
    words: str


@attrs.frozen(kw_only=True)
class Experiment:
    """One question to a card.

    Attributes:
        name: On the command line and in the table.
        question: What it answers.
        rule: By which figures it is decided, and how.
        run: Measures; given a `rig.Rig`. Its process is its own, and may be killed.
        verdict: Pure.
        limit_s: It is killed after so many seconds.
        needs_torch: False where the driver alone is asked.
    """

    name: str
    question: str
    rule: str
    run: Callable[[Any], list[Measurement]]
    verdict: Callable[[Figures], Verdict]
    limit_s: float = 60.0
    needs_torch: bool = True


def answer(name: str, yes: bool, note: str = "") -> Measurement:
    """Write down the answer to a yes-or-no question."""
    return Measurement(name=name, value=YES if yes else NO, unit="yes/no", note=note)


def spread(name: str, samples_ns: Sequence[int]) -> list[Measurement]:
    """Sum up repeated timings as p50, p99, maximum and p99/p50.

    Raises:
        NotMeasured: There are no samples.
    """
    if not samples_ns:
        raise NotMeasured(f"expected timings of {name!r}, got none")
    middle_ns, high_ns = quantile(samples_ns, 0.5), quantile(samples_ns, 0.99)
    count = f"n={len(samples_ns)}"
    return [
        Measurement(name=f"{name} p50", value=middle_ns / US, unit="us", note=count),
        Measurement(name=f"{name} p99", value=high_ns / US, unit="us"),
        Measurement(name=f"{name} max", value=max(samples_ns) / US, unit="us"),
        Measurement(name=f"{name} p99/p50", value=high_ns / max(1, middle_ns)),
    ]


def elapsed_ns(work: Callable[[], object]) -> int:
    """Do something, and return how long the host took for it."""
    begin_ns = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - begin_ns


def quantile(samples: Sequence[int], part: float) -> int:
    """Return the nearest-rank quantile of at least one sample."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def passed(words: str) -> Verdict:
    """The defaults are right."""
    return Verdict(Outcome.PASS, words)


def advise(words: str) -> Verdict:
    """A setting should be another."""
    return Verdict(Outcome.SET, words)


def fall_back(words: str) -> Verdict:
    """Another way should be gone."""
    return Verdict(Outcome.FALLBACK, words)


def failed(words: str) -> Verdict:
    """Something is wrong."""
    return Verdict(Outcome.FAIL, words)
