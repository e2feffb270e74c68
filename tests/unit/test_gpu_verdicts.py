"""What figures speak for: each experiment's verdict, on figures made up for it."""

import attrs
import pytest

from cw.devices.cuda.experiments import autotune, jitter, keep_warm
from cw.devices.cuda.experiments.captured import Timing
from cw.devices.cuda.experiments.figures import (
    Figures,
    Measurement,
    NotMeasured,
    Outcome,
    spread,
)
from cw.devices.cuda.experiments.suite import EXPERIMENTS
from cw.units import MS, US

# Per experiment, what a card gives on which everything is as hoped.
GOOD = {
    "tensors": {
        "a tensor lies where it was put": 1,
        "bfloat16 can be viewed": 1,
        "a layer gives the same output": 1,
        "a kernel reads mapped host memory": 1,
    },
    "remap_replay": {
        "the graph gives the network's output": 1,
        "other pages, other weights: the other's output": 1,
        "the first pages again, not reloaded: the same output": 1,
        "pages in another order, reloaded: the same output": 1,
        "no output is wrong without waits between": 1,
        "first replay against others": 1.02,
    },
    "vmm_cost": {"map, 16 MiB": 3, "access per page, 16 MiB": 10, "unmap, 16 MiB": 20},
    "jitter": {
        "resnet50 b1 idle p99/p50": 1.005,
        "resnet50 b8 idle p99/p50": 1.005,
        "bert b1 idle p99/p50": 1.005,
        "resnet50 b1 idle p99": 1000,
        "resnet50 b1 under LOAD p99/p50": 1.02,
        "resnet50 b1 beside edits p99": 1005,
        "output unchanged by edits": 1,
        "LOAD alone": 50,
        "LOAD beside replays": 48,
    },
    "h2d": {
        "plain memory, one copy": 52,
        "pages, from registered memory": 51,
        "pages, chunks of 1 MiB": 40,
        "pages, chunks of 2 MiB": 44,
        "pages, chunks of 4 MiB": 49,
        "pages, chunks of 16 MiB": 51,
        "pages, chunks of 64 MiB": 52,
    },
    "small_copy": {
        "input behind 2 x 2 MiB": 110,
        "input behind 2 x 4 MiB": 190,
        "input behind 2 x 16 MiB": 650,
        "kernel behind 2 x 16 MiB": 40,
    },
    "notify": {
        "waiter thread p99": 60,
        "semaphore p99": 80,
        "spinning p99": 20,
        "waiter thread beside a busy one, switching every 0.05 ms p99": 300,
    },
    "capture": {
        f"{net}: {name}": value
        for net in ("resnet50", "bert")
        for name, value in {
            "right output": 1,
            "only nodes that replay without the host": 1,
            "launch by the driver p99": 20,
        }.items()
    },
    "pool": {
        "all outputs right in random order": 1,
        "memory of five graphs, a pool each": 900,
        "memory of five graphs, one pool": 300,
    },
    "keep_warm": {
        "busy": 1000,
        "after 2 ms": 1000,
        "after 20 ms": 1005,
        "after 200 ms": 1010,
        "after 1000 ms": 1020,
        "kept warm": 1005,
    },
    "autotune": {"replay without p50": 1000, "replay with the search p50": 990},
    "vmm_async": {
        "map does not wait": 1,
        "allow access does not wait": 1,
        "unmap does not wait": 1,
    },
    "tlb": {"one piece": 3000, "shuffled pages of 16 MiB": 2990},
    "manual_capture": {"a capture by the driver alone replays right": 1},
}

# One thing is otherwise: (experiment, figure, value, what follows, a word of it).
OTHERWISE = [
    ("tensors", "bfloat16 can be viewed", 0, Outcome.FAIL, "bfloat16"),
    (
        "remap_replay",
        "no output is wrong without waits between",
        0,
        Outcome.FALLBACK,
        "fixed slots",
    ),
    ("remap_replay", "first replay against others", 1.2, Outcome.FALLBACK, "fixed slots"),
    ("vmm_cost", "unmap, 16 MiB", 400, Outcome.FALLBACK, "larger pages"),
    ("jitter", "bert b1 idle p99/p50", 1.05, Outcome.FALLBACK, "clocks"),
    ("jitter", "resnet50 b1 under LOAD p99/p50", 1.2, Outcome.FALLBACK, "smaller chunks"),
    ("jitter", "LOAD beside replays", 30, Outcome.FALLBACK, "smaller chunks"),
    ("jitter", "resnet50 b1 beside edits p99", 1100, Outcome.PASS, "disturb"),
    ("jitter", "output unchanged by edits", 0, Outcome.PASS, "disturb"),
    ("h2d", "pages, from registered memory", 20, Outcome.FALLBACK, "cuMemHostAlloc"),
    ("h2d", "plain memory, one copy", 57, Outcome.SET, "64MiB"),
    ("h2d", "plain memory, one copy", 90, Outcome.FALLBACK, "no chunk"),
    ("small_copy", "kernel behind 2 x 16 MiB", 150, Outcome.SET, 'inputs_by = "copy"'),
    ("notify", "waiter thread p99", 500, Outcome.FALLBACK, "semaphore"),
    ("capture", "bert: right output", 0, Outcome.FAIL, "bert"),
    ("capture", "bert: only nodes that replay without the host", 0, Outcome.FAIL, "nodes"),
    ("capture", "resnet50: launch by the driver p99", 80, Outcome.FALLBACK, "launch ahead"),
    ("pool", "all outputs right in random order", 0, Outcome.FALLBACK, "pool for each"),
    ("keep_warm", "after 200 ms", 1400, Outcome.SET, "after 200 ms"),
    ("autotune", "replay with the search p50", 900, Outcome.SET, "set it to true"),
    ("vmm_async", "unmap does not wait", 0, Outcome.PASS, "between INFERs"),
    ("tlb", "shuffled pages of 16 MiB", 2000, Outcome.FALLBACK, "larger pages"),
]


def judge(name, values):
    found = [Measurement(name=figure, value=float(value)) for figure, value in values.items()]
    return EXPERIMENTS[name].verdict(Figures(found))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_good_figures_pass(name):
    """On a card that does what is hoped, nothing is to be changed."""
    verdict = judge(name, GOOD[name])

    assert verdict.outcome is Outcome.PASS
    assert verdict.words


@pytest.mark.parametrize(("name", "figure", "value", "outcome", "word"), OTHERWISE)
def test_one_bad_figure_changes_the_verdict(name, figure, value, outcome, word):
    """Each rule must see its own figure, and name the way out."""
    assert figure in GOOD[name]
    verdict = judge(name, GOOD[name] | {figure: value})

    assert verdict.outcome is outcome
    assert word in verdict.words


def test_where_every_way_waits_no_load_may_run_beside():
    """The copy engine works first in, first out; a kernel on a busy bus may be no quicker."""
    slow = dict.fromkeys(GOOD["small_copy"], 5_000)

    verdict = judge("small_copy", slow)

    assert verdict.outcome is Outcome.FALLBACK
    assert "no LOAD beside" in verdict.words


def test_where_keeping_warm_does_not_help_clocks_are_to_be_locked():
    """The program never locks them itself: it can only say so."""
    verdict = judge("keep_warm", GOOD["keep_warm"] | {"after 20 ms": 1500, "kept warm": 1400})

    assert verdict.outcome is Outcome.FALLBACK
    assert "nvidia-smi -lgc" in verdict.words


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_verdict_without_figures(name):
    """Whatever was not measured must be missed, not taken for nought."""
    with pytest.raises(NotMeasured):
        judge(name, {})


def test_spread_is_that_of_the_samples():
    """All timings of the table go through it."""
    figures = Figures(spread("x", [100 * US] * 98 + [150 * US, 900 * US]))

    assert figures["x p50"] == 100
    assert figures["x p99"] == 900
    assert figures["x p99/p50"] == 9
    with pytest.raises(NotMeasured):
        spread("x", [])


class StubGraph:
    """Stands in for `Captured`: each replay takes a millisecond, and one in 200 a little more."""

    def __init__(self, *_):
        self.count = 0
        self.output = self

    def clone(self):
        return self

    def replay(self):
        self.count += 1
        device_ns = MS + (5 * US if self.count % 200 == 0 else 0)
        return Timing(device_ns=device_ns, launch_ns=10 * US, wall_ns=device_ns)

    def replays(self, count, **_):
        return [self.replay() for _ in range(count)]


class StubBeside:
    count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@attrs.define
class StubRig:
    """Nothing runs beside the replays; torch finds everything equal."""

    torch: object

    def beside(self, step):
        return StubBeside()


class StubTorch:
    class backends:  # noqa: N801  # torch's own name
        class cudnn:  # noqa: N801
            benchmark = False

    @staticmethod
    def equal(one, other):
        return one is other


@pytest.mark.parametrize("module", [jitter, keep_warm, autotune])
def test_what_is_measured_is_what_is_judged(module, monkeypatch):
    """A figure under another name than the verdict's would be missed only on a real card."""
    monkeypatch.setattr(module, "Captured", StubGraph)
    if hasattr(module, "time"):
        monkeypatch.setattr(module.time, "sleep", lambda _: None)
    if module is jitter:
        monkeypatch.setattr(module, "_loading", lambda rig: None)
        monkeypatch.setattr(module, "_editing", lambda rig: None)
    if module is keep_warm:
        monkeypatch.setattr(module, "_IDLE_NS", (2 * MS, 20 * MS))
        monkeypatch.setattr(module, "_small", lambda rig, beside: lambda: None)
    found = module.run(StubRig(StubTorch()))

    verdict = module.verdict(Figures(found))
    assert verdict.words
    assert len({figure.name for figure in found}) == len(found)
