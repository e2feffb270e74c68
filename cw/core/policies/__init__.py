"""Policies: each one file, each the whole answer to what runs, where and when.

``default`` is the one to use. The others are references: they show what its rules are worth, and
are what it is compared with (`late.py` has what they share).
"""

from collections.abc import Callable
from typing import Final

from cw.config import SchedulerSettings
from cw.core.books import Books
from cw.core.policies.clockwork import ClockworkPolicy
from cw.core.policies.default import DefaultPolicy
from cw.core.policies.fcfs import FcfsPolicy
from cw.core.policies.nexus import NexusPolicy
from cw.core.policies.policy import Policy
from cw.core.policies.shepherd import ShepherdPolicy
from cw.core.policies.symphony import SymphonyPolicy
from cw.errors import ConfigError

__all__ = ["POLICIES", "Policy", "make_policy"]

POLICIES: Final[dict[str, Callable[[Books], Policy]]] = {
    "default": DefaultPolicy,
    "clockwork": ClockworkPolicy,
    "symphony": SymphonyPolicy,
    "shepherd": ShepherdPolicy,
    "nexus": NexusPolicy,
    "fcfs": FcfsPolicy,
}
"""By name, as it is written in settings."""


def make_policy(settings: SchedulerSettings, books: Books) -> Policy:
    """Make the policy that the settings name.

    Raises:
        ConfigError: There is no policy of that name.
    """
    make = POLICIES.get(settings.policy)
    if make is None:
        known = ", ".join(POLICIES)
        raise ConfigError(f"unknown policy {settings.policy!r}: choose one of {known}")
    return make(books)
