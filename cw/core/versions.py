"""Versions: what a name stands for, and how that changes without anybody noticing.

The concept: a *version* is a model of its own (its id is derived from its contents), so batches,
pages and profiles never mix versions. What a name stands for is this record: which versions there
are, which is *current*, which is *wanted* to be current once it is ready, and which are *canaries*
with a share of the requests. It changes by whole steps, each a new record, so that whoever keeps
it can write it to a disk and then act on it, or fail to and stay with the old.

======================  ========================================================================
step                    what becomes of it
======================  ========================================================================
`added`                 the first version is current at once; a later one is wanted, or held:
                        a canary with no share, which only those get who ask for it by number
`ordered`               shares are as said; another version is wanted: a promotion, a rollback
`ready` (of a wanted)   it is current, and has no share of its own any more
`failed` (of a wanted)  it is not wanted any more, and why is kept; the current one goes on
======================  ========================================================================

It must not know: how versions are prepared, or how requests find them (`routes.py`).
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from cw.errors import RequestInvalid, UnknownVersion
from cw.messages import ModelId, Route, RouteOrder, Share, VersionRole, VersionStatus

VERSIONS_MAX: Final = 8
"""Kept of a name, those in service included; the oldest goes when one more comes."""
WHOLE: Final = 100
"""Percent."""


def _frozen(mapping: Mapping[int, Any]) -> dict[int, Any]:
    return dict(sorted(mapping.items()))


@attrs.frozen(kw_only=True)
class ModelVersions:
    """The versions of one name."""

    name: str
    ids: Mapping[int, ModelId] = attrs.field(factory=dict, converter=_frozen)
    """All that the store has, by number."""
    next_number: int = 1
    """Numbers are not used again, also not of versions that are gone."""
    current: int = 0
    previous: int = 0
    """Was current before; 0: there is none."""
    wanted: int = 0
    """To be current once it is ready; 0: none."""
    shares: Mapping[int, int] = attrs.field(factory=dict, converter=_frozen)
    """Canaries: percent of the requests by version; 0 for one that is held."""
    failures: Mapping[int, str] = attrs.field(factory=dict, converter=_frozen)
    """Why a wanted version could not be prepared."""

    @property
    def in_service(self) -> tuple[int, ...]:
        """Versions that executors should have."""
        return tuple(sorted({self.current, self.wanted, *self.shares} - {0}))

    def number_of(self, model_id: ModelId) -> int | None:
        """Find a version by its contents."""
        return next((number for number, each in self.ids.items() if each == model_id), None)

    def added(self, model_id: ModelId, *, hold: bool) -> "ModelVersions":
        """Take in a version; contents that are known keep their number."""
        number = self.number_of(model_id)
        record = self
        if number is None:
            number = self.next_number
            ids = {**self._kept(), number: model_id}
            record = attrs.evolve(self, ids=ids, next_number=number + 1)
        if record.current == 0:
            return attrs.evolve(record, current=number)
        if not hold:
            return record.ordered(RouteOrder(name=self.name, switch_to=number, is_whole=False))
        if number in record.in_service:
            return record
        return attrs.evolve(record, shares={**record.shares, number: 0})

    def _kept(self) -> dict[int, ModelId]:
        """Say what stays when one more comes.

        Raises:
            RequestInvalid: All that there may be are in service.
        """
        spare = [number for number in self.ids if number not in self.in_service]
        spare.sort(key=lambda number: (number == self.previous, number))
        excess = len(self.ids) + 1 - VERSIONS_MAX
        if excess > len(spare):
            raise RequestInvalid(
                f"model {self.name!r} has {len(self.ids)} versions in service, which is the "
                "bound; end a canary first ('cw model route NAME --abort')"
            )
        gone = set(spare[: max(0, excess)])
        return {number: each for number, each in self.ids.items() if number not in gone}

    def ordered(self, order: RouteOrder) -> "ModelVersions":
        """Do as an administrator says.

        Raises:
            UnknownVersion: A version that is not in the store.
            RequestInvalid: The shares can't be had.
        """
        shares = {share.version: share.percent for share in order.shares}
        for number in {order.switch_to, *shares} - {0}:
            self.check(number)
        if not order.is_whole:
            shares = {**self.shares, **shares}
        wanted = self.wanted if order.switch_to == 0 else order.switch_to
        if wanted == self.current:
            wanted = 0
        if self.current in {share.version for share in order.shares}:
            raise RequestInvalid(
                f"version {self.current} of {self.name!r} is the current one: it has what the "
                "canaries leave; name those"
            )
        if min(shares.values(), default=0) < 0 or sum(shares.values()) > WHOLE:
            raise RequestInvalid(
                f"expected shares from 0 to {WHOLE} % with a sum of at most {WHOLE} %, got "
                + ", ".join(f"v{number}={percent}%" for number, percent in shares.items())
            )
        if order.switch_to == self.current:
            shares.pop(self.current, None)
        failures = {n: why for n, why in self.failures.items() if n not in {wanted, *shares}}
        return attrs.evolve(self, shares=shares, wanted=wanted, failures=failures)

    def check(self, number: int) -> None:
        """Check that a version is there.

        Raises:
            UnknownVersion: It is not.
        """
        if number not in self.ids:
            have = ", ".join(map(str, self.ids))
            raise UnknownVersion(
                f"model {self.name!r} has no version {number}; it has {have or 'none'}: see "
                f"'cw model versions {self.name}'"
            )

    def ready(self, number: int) -> "ModelVersions":
        """Switch to a wanted version, which is ready."""
        if number != self.wanted:
            return self
        shares = {each: share for each, share in self.shares.items() if each != number}
        return attrs.evolve(self, current=number, previous=self.current, wanted=0, shares=shares)

    def failed(self, number: int, why: str) -> "ModelVersions":
        """Give up a version that can't be prepared; the current one goes on."""
        if number == self.current or number not in self.in_service:
            return self
        shares = {each: share for each, share in self.shares.items() if each != number}
        wanted = 0 if number == self.wanted else self.wanted
        failures = {**self.failures, number: why}
        return attrs.evolve(self, wanted=wanted, shares=shares, failures=failures)

    def route(self, is_ready: frozenset[int] | set[int]) -> Route:
        """Say who gets which requests; canaries that are not ready leave theirs to the current."""
        return Route(
            name=self.name,
            current=self.ids[self.current],
            shares=tuple(
                Share(version=number, percent=percent)
                for number, percent in self.shares.items()
                if percent and number in is_ready
            ),
        )

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Describe them all, the oldest first."""
        return tuple(self._status(number) for number in self.ids)

    def _status(self, number: int) -> VersionStatus:
        role = VersionRole.KEPT
        percent = self.shares.get(number, 0)
        if number == self.current:
            role, percent = VersionRole.CURRENT, WHOLE - sum(self.shares.values())
        elif number == self.wanted:
            role = VersionRole.WANTED
        elif number in self.shares:
            role = VersionRole.CANARY
        elif number in self.failures:
            role = VersionRole.FAILED
        return VersionStatus(
            version=number,
            model_id=self.ids[number],
            role=role,
            percent=percent,
            is_previous=number == self.previous,
            detail=self.failures.get(number, ""),
        )
