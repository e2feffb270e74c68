"""Routes: canaries get their share by counting, and nothing is sent where nobody serves."""

from collections import Counter

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.routes import Routes
from cw.messages import Route, Share
from tests.actor.fakes import MODEL

NAME = MODEL.name


def spec(version):
    return attrs.evolve(MODEL, model_id=MODEL.model_id + version, version=version)


def routed(percents, *, current=1):
    """Return routes of the current version and of canaries with these shares, by version."""
    routes = Routes()
    for version in {current, *percents}:
        routes.add(spec(version))
    routes.route(route(percents, current=current))
    return routes


def route(percents, *, current=1):
    shares = tuple(Share(version=it, percent=percent) for it, percent in percents.items())
    return Route(name=NAME, current=spec(current).model_id, shares=shares)


@given(percent=st.integers(0, 100), count=st.integers(1, 400))
def test_a_share_is_exact_to_one_request_at_any_time(percent, count):
    """Whoever watches a canary counts its requests; chance would have them doubt the counting."""
    routes = routed({2: percent})
    got = Counter(routes.pick(NAME).version for _ in range(count))

    assert abs(got[2] - count * percent / 100) <= 1


@given(first=st.integers(0, 50), second=st.integers(0, 50))
def test_every_hundred_hold_each_share_exactly(first, second):
    """Several canaries must not take from one another."""
    routes = routed({2: first, 3: second})
    for _ in range(3):
        got = Counter(routes.pick(NAME).version for _ in range(100))

        assert (got[2], got[3], got[1]) == (first, second, 100 - first - second)


def test_without_canaries_all_get_the_current_version():
    """The common case costs one look."""
    routes = routed({})

    assert routes.pick(NAME) == routes.current[NAME] == spec(1)


def test_a_version_may_be_asked_for_by_number():
    """That is how a canary is tried before anybody else gets it."""
    routes = routed({2: 0})

    assert routes.pick(NAME, 2) == spec(2)
    assert routes.pick(NAME, 3) is None
    assert routes.pick("other") is None
    assert routes.pick("other", 1) is None
    assert [each.version for each in routes.versions(NAME)] == [1, 2]
    assert routes.versions("other") == ()


def test_a_switch_is_one_step():
    """Before it all get one version, behind it all get the other."""
    routes = routed({2: 30})
    routes.route(route({}, current=2))

    assert {routes.pick(NAME).version for _ in range(100)} == {2}
    routes.remove(spec(1).model_id)
    assert routes.pick(NAME, 1) is None
    assert routes.pick(NAME) == spec(2)


def test_a_canary_that_is_removed_leaves_its_share_to_the_current():
    """Its notice may come without a route: a request must not be sent to what is gone."""
    routes = routed({2: 50})
    routes.remove(spec(2).model_id)

    assert {routes.pick(NAME).version for _ in range(100)} == {1}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_last_version_takes_its_name_along(order):
    """A removed model is unknown, and may be added anew."""
    routes = routed({2: 50})
    for version in order:
        routes.remove(spec(version).model_id)
    routes.remove(spec(1).model_id)

    assert routes.pick(NAME) is None
    assert routes.current == {}
    routes.route(route({}))
    assert routes.current == {}


def test_a_route_to_what_is_not_here_changes_nothing():
    """A gateway serves what it knows; the version may come with the next notice."""
    routes = routed({})
    routes.route(route({}, current=9))
    routes.route(route({9: 50}))

    assert {routes.pick(NAME).version for _ in range(10)} == {1}


def test_a_new_share_goes_on_from_where_the_old_one_was():
    """Asking for the same share every request must not give the canary every request, or none."""
    routes = routed({2: 10})
    got = Counter()
    for _ in range(100):
        routes.route(route({2: 10}))
        got[routes.pick(NAME).version] += 1

    assert got[2] == 10
