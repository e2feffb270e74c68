"""The simulated world itself: it repeats itself, keeps time, and no run beats the bound."""

import json
import os
import subprocess
import sys

import pytest

from cw.sim.command import main
from cw.sim.journal import End
from cw.sim.report import make_report
from tests.simulation.scenarios import QUIET, check_sums, run, scenario

pytestmark = pytest.mark.simulation

POLICIES = ["default", "clockwork"]


def report_of(text):
    world = run(text)
    return make_report(world.scenario, world.journal)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_bytes(policy):
    """A failure that cannot be had again cannot be mended; hashing must not leak in either."""
    arguments = (
        f"--policy {policy} --seed 3 --rate 500 --seconds 2 --executors 2 --pages 20 "
        "--models 9 --gateways 2 --faults random:3 --json --repeatable"
    )
    command = [sys.executable, "-m", "cw.sim", *arguments.split()]
    outputs = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(outputs) == 1
    assert outputs.pop().startswith(b'{"policy": ')


def test_another_seed_gives_another_run():
    """Many seeds are many tests only if they differ."""
    assert report_of("--rate 100 --seconds 1 --seed 1") != report_of(
        "--rate 100 --seconds 1 --seed 2"
    )


def test_a_lone_request_takes_its_messages_and_its_inference():
    """The world's arithmetic, by hand: four messages of 0.25 ms and 2 ms on the device."""
    world = run(f"--profile fixed-2ms --models 1 --rate 10 --arrivals constant --seconds 2 {QUIET}")
    latencies = {record.ended_ns - record.arrival_ns for record in world.journal.requests.values()}

    assert min(latencies) == 3_000_000
    assert max(latencies) < 3_500_000


def test_transfers_take_time_where_a_bandwidth_is_given():
    """602 kB at 100 MB/s are 6 ms: plans that forget them are late on real networks."""
    text = f"--profile fixed-2ms --models 1 --rate 10 --arrivals constant --seconds 2 {QUIET}"
    world = run(f"{text} --bandwidth 100MB --slo 100ms")
    latencies = [record.ended_ns - record.arrival_ns for record in world.journal.requests.values()]

    assert min(latencies) > 9_000_000


@pytest.mark.parametrize("policy", POLICIES)
def test_without_noise_no_promise_is_broken(policy, seed):
    """When everything takes what was planned, a broken promise is a promise wrongly made."""
    text = f"--policy {policy} --rate 400 --seconds 3 --models 12 --seed {seed} {QUIET}"
    world = run(text)
    report = make_report(world.scenario, world.journal)
    check_sums(report)

    assert report.broken == 0, f"to repeat it: python -m cw.sim {text}"
    assert report.requests > 1000


@pytest.mark.parametrize("policy", POLICIES)
def test_at_light_load_everything_is_kept(policy, seed):
    """A third of what the device can do: nothing has to be refused once the models are loaded."""
    report = report_of(f"--policy {policy} --rate 70 --seconds 4 --slo 100ms --seed {seed} {QUIET}")

    assert report.kept == report.requests > 100


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("load", [1.0, 2.0, 5.0, 10.0])
def test_one_overloaded_model_is_served_at_the_devices_pace(policy, load):
    """Dropping too little ends in a spiral in which every batch is too late for its oldest."""
    rate = round(load * 8 / 7.7e-3)  # what full batches can do
    report = report_of(
        f"--policy {policy} --models 1 --rate {rate} --seconds 1 --batch-sizes 1,2,4,8 {QUIET}"
    )
    check_sums(report)

    assert report.broken == 0
    assert 0.75 <= report.share_of_bound <= 1.0


@pytest.mark.parametrize("policy", POLICIES)
def test_no_run_beats_the_bound(policy, seed):
    """The bound is what results are measured by: a run above it would prove it wrong."""
    for slo in ("25ms", "100ms"):
        report = report_of(
            f"--policy {policy} --rate 900 --seconds 2 --slo {slo} --models 3 --seed {seed} "
            f"--executors 2 --arrivals bursts {QUIET}"
        )
        check_sums(report)

        assert 0 < report.kept <= report.bound_rps * 2 + 1e-3


def test_more_models_than_pages_are_loaded_in_turn(seed):
    """Models outnumber the memory in every real cluster: pages go round and are never oversold."""
    world = run(f"--models 10 --pages 12 --rate 60 --seconds 4 --slo 200ms --seed {seed}")
    report = make_report(world.scenario, world.journal)

    assert report.loads > 10
    assert report.kept > 0.8 * report.requests


def test_a_model_that_never_fits_is_said_so():
    """Waiting for ever would look like a slow simulation."""
    from cw.errors import ConfigError
    from cw.sim.world import World

    with pytest.raises(ConfigError, match="pages"):
        World(scenario("--models 1 --pages 1 --rate 10 --seconds 1")).run()


def test_results_are_of_the_traffic_alone():
    """Registration's own LOADs and probes must not count as work or utilisation."""
    world = run(f"--models 2 --rate 1 --seconds 1 --arrivals constant {QUIET}")

    assert world.journal.infers == len(world.journal.requests) == 1
    assert all(record.end is End.KEPT for record in world.journal.requests.values())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--rate 10 --executors 0", "--executors"),
        ("--rate 10 --slo soon", "--slo"),
        ("--rate 10 --set margn=1ms", "margn"),
        ("--rate 10 --batch-sizes 2,4", "--batch-sizes"),
        ("--rate 10 --profile a100", "a100"),
        ("", "rate"),
    ],
)
def test_a_mistyped_argument_is_named(arguments, named, capsys):
    """A default in its place would answer a question that nobody asked."""
    assert main(arguments.split()) == 2
    assert named in capsys.readouterr().err


def test_what_people_read_has_the_same_numbers(capsys):
    """The two forms of a report are of one run."""
    arguments = f"--rate 50 --seconds 1 --set hold_ratio=0.5 {QUIET}".split()
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)

    assert f"({values['requests']} requests)" in text
    assert f"{values['goodput_rps']:.1f}/s" in text
    assert {"policy", "bound_rps", "share_of_bound", "wall_seconds"} <= values.keys()
