"""What was found, for people, for docs/gpu.md, and for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from cw.devices.cuda.experiments.child import to_plain
from cw.devices.cuda.experiments.figures import Measurement, Outcome
from cw.devices.cuda.experiments.parent import Result


@attrs.frozen
class TestRun:
    """What became of one pytest run on the card."""

    name: str
    outcome: Outcome
    words: str


def as_text(card: Mapping[str, str], results: Sequence[Result], tests: Sequence[TestRun]) -> str:
    """Show every figure below its experiment, with the rule and the verdict."""
    lines = [", ".join(f"{name} {value}" for name, value in card.items())]
    for result in results:
        experiment = result.experiment
        lines += ["", f"{experiment.name}: {experiment.question} ({result.took_s:.0f} s)"]
        lines += [f"    {found.name:<58} {show(found):>14}" for found in result.measurements]
        lines += [f"  rule:    {experiment.rule}"]
        lines += [f"  verdict: {result.verdict.outcome.value.upper()}: {result.verdict.words}"]
    if tests:
        lines.append("")
    lines += [f"{test.name}: {test.outcome.value.upper()}: {test.words}" for test in tests]
    return "\n".join(lines)


def as_markdown(
    card: Mapping[str, str], results: Sequence[Result], tests: Sequence[TestRun]
) -> str:
    """Show one row per experiment and test run."""
    rows = [
        (result.experiment.name, result.experiment.rule, result.verdict.outcome, result.verdict)
        for result in results
    ]
    lines = [
        ", ".join(f"{name} {value}" for name, value in card.items()) + ".",
        "",
        "| experiment | rule | verdict | found |",
        "|---|---|---|---|",
    ]
    for name, rule, outcome, verdict in rows:
        lines.append(_row(f"`{name}`", rule, outcome.value, verdict.words))
    lines += [_row(test.name, "All pass.", test.outcome.value, test.words) for test in tests]
    return "\n".join(lines)


def as_plain(
    card: Mapping[str, str], results: Sequence[Result], tests: Sequence[TestRun]
) -> dict[str, Any]:
    """Make plain data of everything."""
    return {
        "card": dict(card),
        "experiments": [
            {
                "name": result.experiment.name,
                "rule": result.experiment.rule,
                "measurements": to_plain(list(result.measurements)),
                "outcome": result.verdict.outcome.value,
                "words": result.verdict.words,
                "took_s": round(result.took_s, 1),
            }
            for result in results
        ],
        "tests": [
            {"name": test.name, "outcome": test.outcome.value, "words": test.words}
            for test in tests
        ],
    }


def show(measurement: Measurement) -> str:
    """Write a number with its unit, or yes or no."""
    if measurement.unit == "yes/no":
        return "yes" if measurement.value else "NO"
    return f"{measurement.value:.4g} {measurement.unit}".strip()


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
