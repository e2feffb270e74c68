"""Clients that wait or hang up, clocks that are wrong: the world beyond plain arrivals."""

import itertools
import json

import attrs
import pytest

from cw.messages import gateway_of
from cw.sim.journal import End
from cw.sim.report import format_report, make_report
from cw.sim.runner import simulate
from cw.sim.world import World
from cw.units import MS, SECOND
from cw.workload.streams import Flood
from cw.workload.workload import ClosedLoop, Workload
from tests.simulation.scenarios import QUIET, check_sums, run, scenario

pytestmark = pytest.mark.simulation

FIXED = f"--profile fixed-2ms --models 2 {QUIET}"


def records(world):
    return list(world.journal.requests.values())


def test_a_client_that_waits_has_one_request_open():
    """A closed loop is what most load generators are: it never asks for more than it gets."""
    world = run(f"{FIXED} --closed 1 --seconds 1")
    ours = sorted((one for one in records(world) if one.model == 0), key=lambda one: one.arrival_ns)

    assert all(one.end is End.KEPT for one in ours)
    for before, after in itertools.pairwise(ours):
        assert after.arrival_ns == before.ended_ns
    # Two models take turns on the device, 2 ms each, and a request's messages take 1 ms.
    assert 200 < len(ours) < 340


def test_a_refused_client_waits_a_little():
    """Else a server that refuses at once would be asked a million times in a second."""
    world = run(f"{FIXED} --closed 8 --slo 5ms --seconds 1")
    refused = [one for one in records(world) if one.end is End.REFUSED]

    assert refused
    assert len(records(world)) < 2 * 8 * SECOND // MS
    check_sums(make_report(world.scenario, world.journal))


def test_a_closed_loop_keeps_to_its_time():
    """Batch clients that come and go beside others are how isolation is measured."""
    base = scenario(f"{FIXED} --closed 1 --seconds 1")
    loop = ClosedLoop(
        models=(1,), clients_per_model=3, slo_ns=50 * MS, from_ns=200 * MS, until_ns=600 * MS
    )
    world = World(attrs.evolve(base, workload=Workload(closed=(loop,))))
    world.run()
    arrivals = [one.arrival_ns - world.begin_ns for one in records(world)]

    assert {one.model for one in records(world)} == {1}
    assert min(arrivals) == 200 * MS
    assert 590 * MS < max(arrivals) < 600 * MS


def test_whoever_waits_for_a_dead_gateway_asks_another():
    """Clients reconnect: a closed loop that ended with its gateway would look like a quiet time."""
    world = run(f"{FIXED} --closed 2 --seconds 1 --gateways 2 --faults gateway@500ms:on=0")
    late = [one for one in records(world) if one.arrival_ns > world.begin_ns + 800 * MS]

    assert {gateway_of(one.request_id) for one in late} == {2}
    assert len(late) > 40


def test_tenants_are_reported_beside_models():
    """A flood may leave every model of its own served well, and another tenant nothing."""
    base = scenario(f"{FIXED} --rate 400 --slo 10ms --seconds 1")
    models = (base.models[0], attrs.evolve(base.models[1], tenant=7))
    flood = Flood(models=(1,), rate_rps=2000, slo_ns=10 * MS)
    workload = Workload(streams=(*base.workload.streams, flood))
    report = simulate(attrs.evolve(base, models=models, workload=workload))
    text = format_report(report)

    assert set(report.tenant_shares) == {"0", "7"}
    assert {one.name: one.tenant for one in report.models} == {"model-0": 0, "model-1": 7}
    assert f"tenants   least share {min(report.tenant_shares.values()):.3f}" in text
    assert "tenants" not in format_report(simulate(base))


def test_progress_is_told_and_the_json_stays_short():
    """An hour's run must show that it is alive; its one line must not name 4,026 models."""
    told = []
    report = simulate(scenario(f"{FIXED} --rate 50 --seconds 1"), progress=told.append)
    values = json.loads(report.as_json(wall_seconds=1.5))

    assert told == sorted(told)
    assert told[-1] == 1.0
    assert values["wall_seconds"] == 1.5
    assert not {"models", "series"} & values.keys()
    assert {"least_model_share", "p10_model_share", "median_model_share"} <= values.keys()


def test_callers_that_hang_up_are_counted_and_free_their_places(seed):
    """A cancelled request is neither kept nor broken, and what it leaves behind must be whole."""
    world = run(
        f"--profile v100 --models 12 --rate 900 --seconds 2 --executors 2 --impatience 0.3 "
        f"--gateways 2 --seed {seed}"
    )
    report = make_report(world.scenario, world.journal)
    check_sums(report)

    assert 0.05 * report.requests < report.failed["cancelled"] <= 0.35 * report.requests
    assert not world.controller.core.books.requests


@pytest.mark.parametrize("drift_ppm", [0, 100])
def test_clocks_that_differ_cost_no_promise(drift_ppm, seed):
    """An hour's offset and a poor crystal are ordinary: pings must find out, and suffice."""
    world = run(
        f"--profile v100 --models 12 --rate 500 --slo 50ms --seconds 2 --executors 3 --seed {seed} "
        f"--noise 0 --outliers 0 --clock-offset 3600s --clock-drift {drift_ppm}"
    )
    report = make_report(world.scenario, world.journal)

    assert report.kept == report.requests > 500
    offsets = [abs(executor.clock.local.offset_ns) for executor in world.executors.values()]
    assert max(offsets) > SECOND
    for executor in world.executors.values():
        local_ns = executor.now_ns()
        error_ns = abs(executor.clock.to_cluster_ns(local_ns) - world.engine.now_ns)
        assert error_ns <= executor.clock.error_bound_ns(local_ns) < MS


def test_a_clock_that_is_set_wrong_is_found_out(seed):
    """After a step windows are missed until the next ping: then all is well again."""
    world = run(
        f"--profile v100 --models 12 --rate 500 --slo 50ms --seconds 3 --executors 2 --seed {seed} "
        "--clock-offset 1s --faults skew@1s:on=0:by=20ms,drift@1s:on=1:by=150"
    )
    late = [one for one in records(world) if one.arrival_ns > world.begin_ns + 2 * SECOND]
    kept = [one for one in late if one.end is End.KEPT]

    assert len(kept) > 0.99 * len(late) > 100
    assert "executor-0" in {one.executors[-1] for one in kept}


@pytest.mark.parametrize(
    ("fault", "mine", "others"),
    [
        ("model@500ms:on=0:by=3", 6, 2),
        ("clock@500ms:on=0:by=2", 4, 4),
        ("slow@500ms:on=0:by=2", 4, 4),
    ],
)
def test_a_fault_slows_what_it_says_and_nothing_else(fault, mine, others):
    """A figure about a fault is worth nothing if another one happened."""
    world = run(f"{FIXED} --rate 20 --arrivals constant --seconds 2 --faults {fault}")
    late = [one for one in records(world) if one.arrival_ns > world.begin_ns + SECOND]
    quickest = {
        model: min(one.ended_ns - one.arrival_ns for one in late if one.model == model)
        for model in (0, 1)
    }

    assert quickest == {0: (mine + 1) * MS, 1: (others + 1) * MS}


def test_transfers_are_as_quick_as_ever_when_the_gpus_clock_drops():
    """PCIe has a clock of its own: LOADs must not slow down with the SMs."""
    arguments = f"--models 10 --pages 12 --profile v100 --rate 40 --seconds 2 --slo 200ms {QUIET}"
    usual, dropped = (
        run(f"{arguments} --faults {fault}").journal
        for fault in ("lag@1999ms:by=1ns", "clock@1ms:on=0:by=1.4")
    )

    assert dropped.infer_busy_ns / dropped.infers > 1.3 * usual.infer_busy_ns / usual.infers
    assert dropped.load_busy_ns / dropped.loads == pytest.approx(
        usual.load_busy_ns / usual.loads, rel=0.02
    )


def test_a_run_without_records_comes_to_the_same():
    """Long runs keep no records; their report must be the one that a short run can check."""
    text = "--profile v100 --models 20 --rate 900 --seconds 3 --pages 60 --faults random:2 --seed 5"
    world = run(text)
    kept = make_report(world.scenario, world.journal)
    lean = simulate(scenario(text))

    assert lean == kept
    assert len(world.journal.requests) == kept.requests


def test_the_seconds_and_the_models_add_up_to_the_whole():
    """A plot that lost a second's requests would show a dip that never was."""
    world = run("--profile v100 --models 20 --rate 900 --seconds 3 --pages 60 --popularity zipf:1")
    report = make_report(world.scenario, world.journal)
    series = report.series

    assert sum(series.offered) == sum(one.offered for one in report.models) == report.requests
    assert sum(series.kept) == sum(one.kept for one in report.models) == report.kept
    assert sum(series.refused) == sum(report.refused.values())
    assert sum(series.cold_starts) <= report.loads
    assert max(series.max_ms) == pytest.approx(report.latency_ms["max"], rel=1e-3)
    assert sum(series.utilisation) / 3 == pytest.approx(report.utilisation, abs=1e-6)
    shares = sorted(one.share for one in report.models)
    assert report.least_model_share == shares[0]
    assert report.median_model_share == shares[10]
    assert report.tenant_shares == {"0": pytest.approx(report.kept / report.requests, abs=1e-6)}
