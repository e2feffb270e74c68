"""Versions: each step of a record gives a whole new one, or an error that says what to do."""

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cw.core.versions import VERSIONS_MAX, ModelVersions
from cw.errors import RequestInvalid, UnknownVersion
from cw.messages import ModelId, RouteOrder, Share, VersionRole

EMPTY = ModelVersions(name="m")


def order(switch_to=0, *, is_whole=True, **shares):
    """Make an order; shares are given as v2=10."""
    return RouteOrder(
        name="m",
        switch_to=switch_to,
        shares=tuple(Share(version=int(it[1:]), percent=part) for it, part in shares.items()),
        is_whole=is_whole,
    )


def grown(count):
    """Return a record of so many versions, added and ready one after the other."""
    record = EMPTY
    for number in range(1, count + 1):
        record = record.added(ModelId(number), hold=False).ready(number)
    return record


def roles(record):
    return {each.version: (each.role, each.percent) for each in record.statuses()}


def test_the_first_version_is_current_at_once():
    """There is nothing that could go on meanwhile."""
    for hold in (False, True):
        record = EMPTY.added(ModelId(7), hold=hold)

        assert (record.current, record.wanted, record.in_service) == (1, 0, (1,))


def test_a_later_version_is_current_once_it_is_ready():
    """Until then the old one answers all."""
    record = grown(1).added(ModelId(2), hold=False)

    assert roles(record) == {1: (VersionRole.CURRENT, 100), 2: (VersionRole.WANTED, 0)}
    record = record.ready(2)
    assert roles(record) == {1: (VersionRole.KEPT, 0), 2: (VersionRole.CURRENT, 100)}
    assert record.previous == 1


def test_a_held_version_waits_beside():
    """It is measured and can be asked for, and nobody gets it who does not."""
    record = grown(1).added(ModelId(2), hold=True)

    assert record.ready(2) == record
    assert roles(record)[2] == (VersionRole.CANARY, 0)
    assert record.route({1, 2}).shares == ()


def test_a_version_that_fails_leaves_the_current_one():
    """The error is kept for whoever asks why nothing changed."""
    record = grown(1).added(ModelId(2), hold=False).failed(2, "too large")

    assert record.in_service == (1,)
    assert roles(record)[2] == (VersionRole.FAILED, 0)
    assert record.statuses()[1].detail == "too large"
    again = record.added(ModelId(2), hold=False)
    assert again.wanted == 2
    assert again.failures == {}


def test_the_current_version_does_not_fail():
    """It may come back on another executor; there is nothing to go back to."""
    assert grown(2).failed(2, "executor lost") == grown(2)
    assert grown(2).failed(1, "not in service") == grown(2)


def test_canaries_get_shares_once_they_are_ready():
    """A share of the requests must not go where they would be refused."""
    record = grown(2).added(ModelId(3), hold=True).ordered(order(v3=10))

    assert record.route({2}).shares == ()
    assert record.route({2, 3}).shares == (Share(version=3, percent=10),)
    assert record.route({2, 3}).current == 2
    assert roles(record)[2] == (VersionRole.CURRENT, 90)


def test_promotion_takes_the_share_along():
    """The canary has all, and no part of what is left."""
    record = grown(1).added(ModelId(2), hold=True).ordered(order(v2=10))
    record = record.ordered(order(2, is_whole=False)).ready(2)

    assert roles(record) == {1: (VersionRole.KEPT, 0), 2: (VersionRole.CURRENT, 100)}


def test_abort_ends_all_canaries():
    """And nothing else."""
    record = grown(2).ordered(order(v1=10))
    assert record.ordered(order()) == grown(2)


def test_rollback_goes_to_any_version():
    """What was current before is remembered."""
    record = grown(3).ordered(order(1)).ready(1)

    assert (record.current, record.previous) == (1, 3)


def test_wanting_the_current_version_ends_a_switch():
    """Whoever sees that the new one is bad before it is ready goes back so."""
    record = grown(1).added(ModelId(2), hold=False).ordered(order(1))

    assert record.wanted == 0
    assert record.ready(2) == record


@pytest.mark.parametrize(
    ("bad", "kind", "said"),
    [
        (order(v9=10), UnknownVersion, "no version 9"),
        (order(9), UnknownVersion, "no version 9"),
        (order(v2=10), RequestInvalid, "is the current one"),
        (order(v1=101), RequestInvalid, "at most 100 %"),
        (order(v1=-1), RequestInvalid, "from 0"),
    ],
)
def test_what_can_not_be_had_is_refused(bad, kind, said):
    """A typing error must not send requests anywhere."""
    with pytest.raises(kind, match=said):
        grown(2).ordered(bad)


def test_the_oldest_goes_when_there_are_too_many():
    """Never one that is in service, and last of all the one to roll back to."""
    record = grown(VERSIONS_MAX).added(ModelId(90), hold=True)
    assert 1 not in record.ids
    assert len(record.ids) == VERSIONS_MAX

    record = grown(2).ordered(order(1)).ready(1)  # 2 is what a rollback wants
    for number in range(VERSIONS_MAX - 2):
        record = record.added(ModelId(50 + number), hold=True)
    assert {1, 2} <= set(record.ids)


def test_too_many_in_service_are_refused():
    """Each takes host memory on executors."""
    record = grown(1)
    for number in range(VERSIONS_MAX - 1):
        record = record.added(ModelId(50 + number), hold=True)
    with pytest.raises(RequestInvalid, match="--abort"):
        record.added(ModelId(99), hold=True)


class Life(RuleBasedStateMachine):
    """Any order of steps: what is served is there, and shares never exceed the whole."""

    def __init__(self):
        super().__init__()
        self.record = EMPTY.added(ModelId(1), hold=False)

    @rule(model_id=st.integers(1, 12), hold=st.booleans())
    def add(self, model_id, hold):
        try:
            self.record = self.record.added(ModelId(model_id), hold=hold)
        except RequestInvalid:
            assert len(self.record.in_service) >= VERSIONS_MAX

    @rule(
        switch_to=st.integers(0, 14),
        shares=st.dictionaries(st.integers(1, 14), st.integers(0, 60), max_size=2),
        is_whole=st.booleans(),
    )
    def do(self, switch_to, shares, is_whole):
        made = tuple(Share(version=it, percent=part) for it, part in shares.items())
        wanted = RouteOrder(name="m", switch_to=switch_to, shares=made, is_whole=is_whole)
        try:
            self.record = self.record.ordered(wanted)
        except (RequestInvalid, UnknownVersion):
            return

    @precondition(lambda self: self.record.wanted)
    @rule(is_good=st.booleans())
    def end(self, is_good):
        wanted = self.record.wanted
        self.record = self.record.ready(wanted) if is_good else self.record.failed(wanted, "why")

    @invariant()
    def what_is_served_is_there(self):
        record = self.record
        assert set(record.in_service) <= set(record.ids)
        assert record.current not in record.shares
        assert record.wanted != record.current
        assert len(record.ids) <= VERSIONS_MAX
        assert sum(each.percent for each in record.statuses()) == 100
        assert max(record.ids) < record.next_number

    @invariant()
    def a_record_is_a_value(self):
        assert attrs.evolve(self.record) == self.record


TestLife = Life.TestCase
TestLife.__doc__ = "Versions in any order of steps."
