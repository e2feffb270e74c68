"""Policies: each one file, each the whole answer to what runs, where and when."""

from cw.config import SchedulerSettings
from cw.core.books import Books
from cw.core.policies.clockwork import ClockworkPolicy
from cw.core.policies.default import DefaultPolicy
from cw.core.policies.policy import Policy
from cw.errors import ConfigError

__all__ = ["ClockworkPolicy", "DefaultPolicy", "Policy", "make_policy"]


def make_policy(settings: SchedulerSettings, books: Books) -> Policy:
    """Make the policy that the settings name.

    Raises:
        ConfigError: There is no policy of that name.
    """
    match settings.policy:
        case "default":
            return DefaultPolicy(books)
        case "clockwork":
            return ClockworkPolicy(books)
        case other:
            raise ConfigError(f"unknown policy {other!r}: choose 'default' or 'clockwork'")
