"""Planning: the search, the traffic that grows, the models' file, and plans from end to end."""

import argparse
import contextlib
import io
import json

import numpy as np
import pytest

from cw.devices.profile_file import read_profile
from cw.errors import ConfigError
from cw.sim import sizing_command
from cw.sim.network import NetworkModel
from cw.sim.sizing_bounds import bounds_of
from cw.sim.sizing_models import read_fleet
from cw.sim.sizing_search import FACTOR_MAX, largest_factor, smallest
from cw.sim.sizing_traffic import find_stretch, kind_of, read_stream
from cw.units import MS, SECOND

V100 = read_profile("v100")


def plan(*words):
    """Run the command as typed; give what it printed on stdout."""
    parser = argparse.ArgumentParser()
    sizing_command.add_arguments(parser)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = sizing_command.run(parser.parse_args([*words, "--jobs", "1"]))
    assert status == 0
    return out.getvalue()


def short(*words):
    """Plan for so little traffic that it takes a second or two."""
    few = ("--profile", "v100", "--window", "2s", "--lead-in", "1s", "--seeds", "1", "--quick")
    return json.loads(plan(*few, *words, "--json", "--repeatable"))


def stretch_of(path, *, models=2, window_s=2, lead_s=1, slo_ns=100 * MS, seeds=(1,)):
    """Find a file's busiest stretch."""
    fleet = read_fleet(str(models), V100)
    stream = read_stream(kind_of(str(path)), fleet, rate_rps=None, popularity=None, slo_ns=slo_ns)
    return find_stretch(
        stream,
        fleet,
        slos_ns=(slo_ns,) * models,
        seeds=seeds,
        window_s=window_s,
        lead_s=lead_s,
        endless_s=None,
    )


def instants(path, seconds):
    """Write instants as a trace."""
    path.write_text("# instants\n" + "\n".join(str(second) for second in sorted(seconds)))
    return path


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("answer", [3, 4, 5, 7, 11, 29, 64, 100])
def test_the_smallest_number_that_holds_is_found(first, answer):
    """One GPU too many is money, one too few is a broken target."""
    asked = []

    def holds(numbers):
        asked.extend(numbers)
        return [number >= answer for number in numbers]

    found = smallest(holds, first=first, last=100)

    assert found == answer
    assert len(asked) == len(set(asked)), "a simulation was asked for twice"


def test_the_search_ends_at_its_bound():
    """A target that can't be had must not be looked for on ever more GPUs."""
    asked = []

    def never(numbers):
        asked.extend(numbers)
        return [False] * len(numbers)

    assert smallest(never, first=2, last=40) is None
    assert max(asked) == 40


@pytest.mark.parametrize("edge", [1.0, 1.04, 1.1, 1.27, 1.9, 7.0, 300.0])
def test_the_headroom_is_found_to_its_precision(edge):
    """Both sides are simulated: one holds, the other misses, and they are 2 % apart at most."""
    held, missed = largest_factor(
        lambda factors: [factor <= edge for factor in factors], precision=1.02
    )

    assert held <= edge < missed
    assert missed / held <= 1.02


def test_a_headroom_without_an_end_is_given_up():
    """A device that nothing fills must not be searched for ever."""
    held, missed = largest_factor(lambda factors: [True] * len(factors), precision=1.02)

    assert held >= FACTOR_MAX
    assert missed is None


# --- the traffic ----------------------------------------------------------------------------------


def test_the_busiest_stretch_is_planned_for(tmp_path):
    """A mean over quiet hours would say that one GPU is enough."""
    quiet, busy = [float(second) for second in range(20)], [7 + part / 50 for part in range(100)]

    found = stretch_of(instants(tmp_path / "trace.txt", quiet + busy))

    assert (found.begin_s, found.seconds, found.trace_s) == (7, 2, 20)
    traffic = found.traffics[0]
    assert traffic.duration_ns == 3 * SECOND
    assert np.count_nonzero(traffic.instants_ns >= SECOND) == 102
    assert np.count_nonzero(traffic.instants_ns < SECOND) == 1


def test_where_the_trace_begins_its_first_seconds_warm_up(tmp_path):
    """There is nothing before them to play, and cold GPUs are not what is planned for."""
    path = instants(tmp_path / "trace.txt", [0.0, 0.25, 1.5, 2.5])

    traffic = stretch_of(path, window_s=3, lead_s=1).traffics[0]

    assert (traffic.instants_ns / SECOND).tolist() == [0.0, 0.25, 1.0, 1.25, 2.5, 3.5]


def test_counts_are_cut_before_they_are_drawn(tmp_path):
    """Weeks of counts are too many requests to draw; the busiest second must still be found."""
    path = tmp_path / "counts.txt"
    path.write_text(" ".join(["2"] * 5000 + ["300", "400"] + ["3"] * 5000))

    found = stretch_of(path, window_s=2, lead_s=1, seeds=(1, 2))

    assert found.begin_s == 5000
    assert found.trace_s == 10_002
    assert max(found.load.offered_rps) == 400
    counted = [np.count_nonzero(one.instants_ns >= SECOND) for one in found.traffics]
    assert all(600 < count < 800 for count in counted)
    assert len(found.traffics) == 2
    assert counted[0] != counted[1]


def test_a_trace_that_grows_keeps_what_it_had(tmp_path):
    """Else more load could be easier load, and the search for the head-room would jump about."""
    rng = np.random.Generator(np.random.PCG64(1))
    found = stretch_of(instants(tmp_path / "trace.txt", rng.random(3000) * 4), window_s=4)
    traffic = found.traffics[0]
    before, requests = set(), len(traffic.instants_ns)
    for growth in (0.5, 1.0, 1.3, 2.0, 2.6):
        instants_ns, models = type(traffic)(
            instants_ns=traffic.instants_ns,
            models=traffic.models,
            slos_ns=traffic.slos_ns,
            duration_ns=traffic.duration_ns,
            growth=growth,
        ).grown()

        here = set(zip(instants_ns.tolist(), models.tolist(), strict=True))
        assert len(models) == pytest.approx(growth * requests, rel=0.05)
        assert before <= here
        assert (np.diff(instants_ns) >= 0).all()
        before = here


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("app,func,end_timestamp,duration\na,f,1.5,0.1\n", "requests"),
        ("gmt_create,checkpoint_model_version_id\n2024-11-15 16:57:50,7\n", "requests"),
        ("TIMESTAMP,ContextTokens\n2023-11-16 18:17:03.97,48\n", "trace"),
        ("HashOwner,HashApp,HashFunction,Trigger,1,2\na,b,c,http,3,4\n", "minutes"),
        ("52 55 48 55\n", "counts"),
        ("0.5\n0.7\n", "trace"),
    ],
)
def test_a_trace_is_known_by_its_head(text, kind, tmp_path):
    """People have a file; that its format has a name here is our business."""
    path = tmp_path / "file"
    path.write_text(text)

    assert kind_of(str(path)) == f"{kind}:{path}"


def test_what_is_no_trace_is_told(tmp_path):
    """A misspelt name must not be read as something else."""
    with pytest.raises(ConfigError, match="expected a file, or one of poisson"):
        kind_of(str(tmp_path / "none.csv"))


# --- the models -----------------------------------------------------------------------------------

MODELS = """
[[models]]
name = "small"
copies = 3
image = "100MB"
share = 1
batch = { 1 = "2ms", 8 = "9ms" }

[[models]]
name = "large"
image = "440MB"
profile = "v100"
share = 5
slo = "200ms"
tenant = 2
"""


def test_models_are_read_the_most_asked_for_first(tmp_path):
    """A trace's greatest names are laid on the first models."""
    path = tmp_path / "models.toml"
    path.write_text(MODELS)

    fleet = read_fleet(str(path), V100)

    assert [model.name for model in fleet.models] == ["large", "small-0", "small-1", "small-2"]
    assert fleet.shares == pytest.approx((5, 1 / 3, 1 / 3, 1 / 3))
    assert fleet.slos_ns == (200 * MS, None, None, None)
    assert fleet.models[0].tenant == 2
    assert [fleet.pages_of(index) for index in range(4)] == [27, 6, 6, 6]
    assert fleet.table_of(1) == {1: 2 * MS, 8: 9 * MS}
    assert fleet.table_of(0)[16] == 17_330_000


def test_models_of_a_cluster_are_taken_as_measured(tmp_path):
    """Profiles of one's own cluster are better than any that we could ship."""
    row = {"batch_size": 1, "samples": 12, "p50_ns": 3 * MS, "p99_ns": 4 * MS}
    status = {
        "executors": [{"id": 1, "device": "NVIDIA-L4", "pages": 900}],
        "models": [
            {"name": "a", "image_bytes": 100_000_000, "load_ms": 10.0, "profile": [row]},
            {"name": "unmeasured", "image_bytes": 1, "load_ms": 0.0, "profile": []},
        ],
    }
    path = tmp_path / "status.json"
    path.write_text(json.dumps(status))

    fleet = read_fleet(str(path), V100)

    assert [model.name for model in fleet.models] == ["a"]
    assert fleet.table_of(0) == {1: 3 * MS}
    assert (fleet.profile.name, fleet.profile.pages_total) == ("NVIDIA-L4", 900)
    assert fleet.profile.load_bytes_per_second == 10_000_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got the keys none"),
        ("models = 3", "expected one or more"),
        ('[[models]]\nname = "a"\nsise = 3', "unknown key 'sise'"),
        ('[[models]]\nname = "a"\ncopies = 0', "copies: expected 1 to"),
        ('[[models]]\nname = "a"\nimage = "big"', "expected a size such as"),
        ('[[models]]\nname = "a"\nbatch = { 2 = "3ms" }', "from batch size 1 on"),
        ('[[models]]\nname = "a"\nimage = "900GB"', "take a larger device"),
        ('[[models]]\nname = "a"\n[[models]]\nname = "a"', "'a' is there already"),
        ('[[models]]\nname = "a"\nshare = 1\n[[models]]\nname = "b"', "for each model or for none"),
        ('{"executors": []}', "what `cw status --json` prints"),
    ],
)
def test_what_is_wrong_with_models_is_told(text, said, tmp_path):
    """A wrong file is the first thing that happens to whoever writes one."""
    path = tmp_path / "models.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=said):
        read_fleet(str(path), V100)


# --- arithmetic -----------------------------------------------------------------------------------


def test_bounds_are_what_can_be_counted_by_hand(tmp_path):
    """1,000 requests/s at 1.08 ms each in the densest batch: two GPUs, whoever schedules."""
    path = instants(tmp_path / "trace.txt", [part / 1000 for part in range(3000)])
    fleet = read_fleet("2", V100)
    traffic = stretch_of(path, models=2, window_s=3).traffics[0]

    found = bounds_of(fleet, traffic, lead_s=1, target=0.999, network=NetworkModel())

    assert found.compute == 2
    assert found.memory_and_pcie == 1
    assert (found.pages_asked, found.all_resident) == (14, 1)


# --- from end to end ------------------------------------------------------------------------------


def test_a_plan_is_found_shown_and_drawn(tmp_path):
    """Compute: 600 requests/s of ten models that all fit, on one V100 and a bit."""
    words = ("--trace", "poisson", "--rate", "700", "--slo", "50ms", "--models", "10")
    result = short(*words, "--target", "99%", "--out", str(tmp_path))

    assert result["gpus"] == 2
    assert result["attainment"] >= 0.99
    assert result["headroom"] >= 1.0
    assert result["bottleneck"] == "compute"
    assert [each["gpus"] for each in result["by_gpus"]] == [1, 2, 3]
    assert result["by_gpus"][0]["attainment"] < 0.99
    evidence = result["evidence"]
    assert evidence["attainment"] < 0.99
    assert evidence["with_twice"]["compute"] > evidence["with_twice"]["memory"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"plan-gpus.csv", "plan.json", "plan.png", "plan.svg"}


def test_models_that_are_swapped_break_memory_or_its_link():
    """More GPUs for their memory is another purchase than more GPUs for their speed."""
    words = ("--trace", "poisson", "--rate", "150", "--slo", "100ms", "--models", "100")
    result = short(*words, "--target", "95%", "--pages", "120")

    assert result["bottleneck"] in ("PCIe", "memory")
    evidence = result["evidence"]
    assert evidence["with_twice"]["memory"] > evidence["attainment"]
    assert evidence["refused_cold"] > 0
    assert evidence["pages_asked"] > evidence["pages"]


def test_other_slos_are_told_for_people():
    """Whether 25 ms would cost another GPU is the next question that is asked."""
    few = ("--profile", "v100", "--window", "1s", "--lead-in", "1s", "--seeds", "1")
    words = ("--trace", "constant", "--rate", "100", "--slo", "50ms", "--models", "2")
    printed = plan(*few, *words, "--target", "90%")

    assert printed.startswith("1 NVIDIA-V100: 100.000 % of the requests in time (target 90 %)")
    assert "In time %, by SLO and number of GPUs" in printed
    assert "25.00 ms" in printed
    assert "breaks first" in printed


def test_an_slo_below_the_shortest_batch_is_told_at_once():
    """No number of GPUs makes one batch faster; the user must learn for which models."""
    words = ("--trace", "poisson", "--rate", "10", "--slo", "3ms", "--models", "2")

    with pytest.raises(ConfigError, match=r"model-0 needs 4\.48 ms, its SLO is 3\.00 ms"):
        short(*words)


def test_a_target_that_more_gpus_do_not_bring_nearer_is_given_up(tmp_path):
    """LOADs that take longer than the SLO stay cold on any number of GPUs."""
    path = tmp_path / "models.toml"
    path.write_text('[[models]]\nname = "a"\ncopies = 30\nimage = "2GB"')
    words = ("--trace", "poisson", "--rate", "60", "--slo", "50ms", "--models", str(path))

    with pytest.raises(ConfigError, match=r"refused as cold \(a LOAD takes up to 163 ms\)"):
        short(*words, "--pages", "130", "--gpus-max", "3")
