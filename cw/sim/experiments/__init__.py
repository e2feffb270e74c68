"""Experiments: the paper's figures and our own goals, run by name.

``cw simulate --experiment NAME`` runs one module of this package; its docstring is its description.
"""

import importlib
from typing import Final, cast

from cw.errors import ConfigError
from cw.sim.experiments.experiment import Experiment

NAMES: Final = (
    "fig5",
    "fig6",
    "fig7",
    "fig8",
    "fig9",
    "scale",
    "cells",
    "frontier",
    "goals",
    "mixed",
    "isolation",
    "faults",
)


def find(name: str) -> Experiment:
    """Import an experiment.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in NAMES:
        raise ConfigError(f"expected an experiment of {', '.join(NAMES)}, got {name!r}")
    return cast("Experiment", importlib.import_module(f"cw.sim.experiments.{name}"))
