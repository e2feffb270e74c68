"""What a check says: what was found, what was expected, why it matters, and what mends it."""

import enum
from collections.abc import Sequence

import attrs


class Verdict(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It serves, but less predictably than it could."""
    PROBLEM = "problem"
    """It does not serve, or promises will be broken."""


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that was looked at.

    Of a finding that is OK nothing but `found` need be said.
    """

    check: str
    """What was looked at, in a word or two; unique within its group (a GPU's has its number)."""
    verdict: Verdict
    found: str
    expected: str = ""
    why: str = ""
    """What it does to latency, or to promises."""
    mend: str = ""
    """A command to run as it stands, or what to do where no command does it."""

    def __attrs_post_init__(self) -> None:
        """Hold checks to it that whoever is warned is told what to do."""
        is_told = bool(self.expected and self.why and self.mend)
        assert self.verdict is Verdict.OK or is_told, f"{self.check}: a finding without a way out"


def ok(check: str, found: str) -> Finding:
    """Make a finding that asks for nothing."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


@attrs.frozen(kw_only=True)
class Group:
    """Findings about one subject."""

    title: str
    findings: tuple[Finding, ...]


def worst(groups: Sequence[Group]) -> Verdict:
    """Say how bad the worst finding is."""
    verdicts = {finding.verdict for group in groups for finding in group.findings}
    for verdict in (Verdict.PROBLEM, Verdict.WARNING):
        if verdict in verdicts:
            return verdict
    return Verdict.OK
