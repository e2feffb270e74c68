"""Versions of a model: what a name stands for, as gateways and administrators see it."""

import enum

import attrs

from cw.messages.ids import ModelId


@attrs.frozen(kw_only=True)
class Share:
    """A version's part of the requests for a name."""

    version: int
    percent: int


@attrs.frozen(kw_only=True)
class Route:
    """Who gets the requests for a name that ask for no version."""

    name: str
    current: ModelId
    """Gets what the shares leave."""
    shares: tuple[Share, ...] = ()


@attrs.frozen(kw_only=True)
class RouteOrder:
    """What an administrator wants of a name's versions."""

    name: str
    switch_to: int = 0
    """Make this version current once it is ready; 0: leave that as it is."""
    shares: tuple[Share, ...] = ()
    """Canaries, and their part of the requests."""
    is_whole: bool = True
    """These are all the canaries; False: the others stay."""


class VersionRole(enum.Enum):
    """What a version is there for."""

    CURRENT = "current"
    WANTED = "wanted"
    """Being prepared, to become current."""
    CANARY = "canary"
    """Served beside the current one; with a share of 0 only to those who ask for it by number."""
    KEPT = "kept"
    """In the store, to go back to."""
    FAILED = "failed"
    """It could not be prepared."""


@attrs.frozen(kw_only=True)
class VersionStatus:
    """One version of a name."""

    version: int
    model_id: ModelId
    role: VersionRole
    percent: int
    """Of the requests for the name."""
    is_previous: bool = False
    """Was current before: where a rollback goes."""
    detail: str = ""
    """Why it failed."""
