"""Versions of what cw stands on, against what it asks for."""

import attrs
from packaging.requirements import Requirement

from cw.doctor.finding import Finding, Verdict, ok

PACKAGES = ("trio", "pycapnp", "torch", "cuda-python")
"""Whose version changes how time is kept; the others' are pip's affair."""
_FOR = {
    "torch": "the devices cpu and cuda",
    "cuda-python": "the device cuda",
}
"""What may lack: a gateway, a controller and a client do without."""


@attrs.frozen(kw_only=True)
class VersionFacts:
    """What is installed, and what is asked for."""

    python: str
    """Such as ``3.11.9``."""
    python_asked: str
    """Such as ``>=3.11``."""
    installed: dict[str, str]
    """Version by the package's name; only those that are there."""
    requirements: tuple[str, ...]
    """As ``trio>=0.30``; those of extras as well, markers left out."""


def check(facts: VersionFacts) -> tuple[Finding, ...]:
    """Judge them."""
    asked: dict[str, Requirement] = {}
    for text in facts.requirements:
        requirement = Requirement(text)
        asked.setdefault(requirement.name, requirement)
    wanted = [asked[name] for name in PACKAGES if name in asked]
    return (_python(facts), *(_package(each, facts.installed.get(each.name)) for each in wanted))


def _python(facts: VersionFacts) -> Finding:
    if Requirement(f"python{facts.python_asked}").specifier.contains(
        facts.python, prereleases=True
    ):
        return ok("python", facts.python)
    return Finding(
        check="python",
        verdict=Verdict.PROBLEM,
        found=facts.python,
        expected=facts.python_asked,
        why="cw is neither written for it nor tested with it",
        mend="make a virtual environment with a newer one: python3.11 -m venv .venv",
    )


def _package(asked: Requirement, found: str | None) -> Finding:
    if found is None and asked.name in _FOR:
        return ok(asked.name, f"not installed; needed for {_FOR[asked.name]} only")
    if found is not None and asked.specifier.contains(found, prereleases=True):
        return ok(asked.name, found)
    return Finding(
        check=asked.name,
        verdict=Verdict.PROBLEM,
        found=found or "not installed",
        expected=str(asked.specifier),
        why="other versions lack what is called, or were never tested with it",
        mend=f"python -m pip install '{asked.name}{asked.specifier}'",
    )
