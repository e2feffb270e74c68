"""Facts of what is installed: asked of the packages' metadata, so that nothing is imported."""

import platform
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from cw.doctor.versions import PACKAGES, VersionFacts

_PROJECT: Final = Path(__file__).parents[3] / "pyproject.toml"


def versions() -> VersionFacts:
    """Look up the installed versions, and what cw asks for."""
    installed = {}
    for name in PACKAGES:
        found = installed_version(name)
        if found is not None:
            installed[name] = found
    python_asked, requirements = _asked()
    return VersionFacts(
        python=platform.python_version(),
        python_asked=python_asked,
        installed=installed,
        requirements=requirements,
    )


def installed_version(name: str) -> str | None:
    """Say which version of a package is installed; None if none is."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _asked() -> tuple[str, tuple[str, ...]]:
    """Read what cw asks for: in a checkout from its pyproject.toml, else from its metadata."""
    if _PROJECT.is_file():
        project = tomllib.loads(_PROJECT.read_text())["project"]
        texts = [*project["dependencies"]]
        for extra in project["optional-dependencies"].values():
            texts += extra
        return project["requires-python"], tuple(texts)
    found = metadata.metadata("cw")
    required = [Requirement(text) for text in metadata.requires("cw") or ()]
    return found["Requires-Python"], tuple(f"{each.name}{each.specifier}" for each in required)
