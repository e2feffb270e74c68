"""The scheduler's benchmark: that it counts what it says, and that idle models cost nothing."""

import json
import sys

import attrs
import pytest

from cw.sim import speed

SMALL = speed.SpeedCase(executors=2, models=20, requests=400)


@pytest.mark.parametrize("policy", ["default", "clockwork"])
def test_every_request_is_counted_and_nearly_all_are_served(policy):
    """A benchmark that refused or lost its requests would show a fine speed."""
    measured = speed.measure(attrs.evolve(SMALL, policy=policy))
    counts = measured.counts

    assert counts.requests == 400
    assert counts.slots >= 0.9 * counts.kept
    assert counts.kept > 300
    assert 0 < counts.inside_ns < counts.all_ns
    assert measured.as_dict()["kept_share"] > 0.8


def test_a_request_costs_no_more_for_models_that_nobody_asks_for():
    """The cost must grow with the models that have a queue, not with all that are registered.

    Counted in function calls, since those are the same on every machine.
    """
    crowded = attrs.evolve(SMALL, models=600)

    assert _calls(crowded) < 1.2 * _calls(SMALL)


def _calls(case):
    """Count the calls made for the traffic of `SMALL`, in a cluster as `case` has it."""
    driver = speed.prepare(case)
    arrivals = speed.draw_arrivals(SMALL, SMALL.counted, driver.now_ns + speed.STEP_NS)
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        driver.serve(arrivals)
    finally:
        sys.setprofile(None)
    return calls


def test_homes_give_every_executor_the_same_to_do():
    """Else one overloaded executor would be measured, and many idle ones."""
    case = speed.SpeedCase(executors=8, models=200)
    homes = speed.spread_homes(case)
    weights = speed.popularities(case.models)
    copies = [sum(model in home for home in homes) for model in range(case.models)]
    loads = [sum(weights[model] / copies[model] for model in home) for home in homes]

    assert min(copies) >= 1
    assert max(loads) < 1.1 * min(loads)


def test_the_command_prints_what_it_measured(capsys):
    """Its JSON is what others compare over time."""
    code = speed.main(["--case", "2x20", "--requests", "200", "--json"])
    told = json.loads(capsys.readouterr().out)["cases"][0]

    assert code == 0
    assert (told["executors"], told["models"], told["requests"]) == (2, 20, 200)
    assert told["us_per_request"] > 0
    assert told["requests_per_second"] == pytest.approx(1e6 / told["us_per_request"], rel=0.01)


def test_a_case_that_cannot_be_read_is_an_error_in_words(capsys):
    """A typing error must not look like a measurement."""
    assert speed.main(["--case", "many"]) == 2
    assert "GxM" in capsys.readouterr().err
