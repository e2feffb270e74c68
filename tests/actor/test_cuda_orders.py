"""The cuda device under any order of actions: no page read before its copy, nor taken in use.

The driver in software notes each hazard, whatever came of it (`tests/softcuda/README.md`). The
orders are those that a lane's actor allows: a model is prepared before its LOAD, resident before
its INFER, and at most one call waits on a lane behind the one that runs.
"""

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cw.actors.clock import now_ns
from cw.errors import StartMissed
from cw.messages import Window
from cw.units import MS, US
from tests.actor.device_models import (
    PAGES_TOTAL,
    answer_alone,
    assert_close,
    open_soft_device,
    pack_archives,
    prepare,
    sample,
    spec_of,
)
from tests.softcuda.card import SoftCard, needs_card
from tests.softcuda.host_graphs import HostGraphs

pytestmark = needs_card

NAMES = ("tiny-mlp-a", "tiny-mlp-b", "wide")
SEEDS = 3
PER_LANE_MAX = 2
COPY_DELAY_NS = 300 * US

_programs = {}


class CachedGraphs(HostGraphs):
    """Loads each program once for all examples: torch takes longer for that than all the rest."""

    def load(self, checked, model):
        if checked.sha256 not in _programs:
            _programs[checked.sha256] = super().load(checked, model)
        return _programs[checked.sha256]


@attrs.define
class Model:
    """What the actor's books say of one model."""

    archive: object
    is_prepared: bool = False
    is_loading: bool = False
    pages: tuple = ()
    running: int = 0

    @property
    def spec(self):
        return spec_of(self.archive)


class Lanes:
    """Starts what is allowed, as a lane's actor would, and waits where that is not yet so."""

    def __init__(self, device, archives, answers, nursery):
        self._device, self._answers, self._nursery = device, answers, nursery
        self._models = {name: Model(archives[name]) for name in NAMES}
        self._open = {"infer": 0, "load": 0}
        self._changed = trio.Condition()
        self.done = {"load": 0, "infer": 0, "unload": 0, "prepare": 0, "forget": 0, "missed": 0}

    async def perform(self, step):
        """Start one step, or leave it out if it is not allowed even when all has settled."""
        kind, name, *rest = step
        model = self._models[name]
        for settled in (False, True):
            if getattr(self, f"_may_{kind}")(model, *rest):
                await getattr(self, f"_{kind}")(model, *rest)
                return
            if not settled:
                await self.settle()

    async def settle(self):
        async with self._changed:
            while any(self._open.values()):
                await self._changed.wait()

    async def _start(self, lane, work, model, *arguments):
        async with self._changed:
            while self._open[lane] >= PER_LANE_MAX:
                await self._changed.wait()
        self._open[lane] += 1

        async def run():
            await work(model, *arguments)
            async with self._changed:
                self._open[lane] -= 1
                self._changed.notify_all()

        self._nursery.start_soon(run)
        await trio.lowlevel.checkpoint()

    def _free_pages(self, order, count):
        taken = {page for model in self._models.values() for page in model.pages}
        free = [page for page in order if page not in taken]
        return tuple(free[:count]) if len(free) >= count else ()

    def _may_prepare(self, model):
        return not model.is_prepared

    async def _prepare(self, model):
        await self._start("infer", self._do_prepare, model)
        await self.settle()

    async def _do_prepare(self, model):
        await prepare(self._device, model.archive)
        model.is_prepared = True
        self.done["prepare"] += 1

    def _may_forget(self, model):
        return model.is_prepared and not model.pages

    async def _forget(self, model):
        model.is_prepared = False
        await self._device.forget(model.spec.model_id)
        self.done["forget"] += 1

    def _may_load(self, model, order, _window):
        return model.is_prepared and not model.pages and self._free_pages(order, model.spec.pages)

    async def _load(self, model, order, window):
        model.pages, model.is_loading = self._free_pages(order, model.spec.pages), True
        await self._start("load", self._do_load, model, window)

    async def _do_load(self, model, window):
        try:
            await self._device.load(model.spec.model_id, model.pages, window=bounds(window))
            self.done["load"] += 1
        except StartMissed:
            model.pages = ()
            self.done["missed"] += 1
        model.is_loading = False

    def _may_infer(self, model, *_):
        return model.pages and not model.is_loading

    async def _infer(self, model, size, count, seed, window):
        model.running += 1
        await self._start("infer", self._do_infer, model, size, count, seed, window)

    async def _do_infer(self, model, size, count, seed, window):
        spec = model.spec
        batch_size = spec.batch_sizes[min(size, len(spec.batch_sizes) - 1)]
        seeds = [(seed + index) % SEEDS for index in range(min(count, batch_size))]
        inputs = [sample(spec, number) for number in seeds]
        try:
            report = await self._device.infer(
                spec.model_id, batch_size, inputs, window=bounds(window)
            )
            for number, outputs in zip(seeds, report.outputs, strict=True):
                assert_close(outputs, self._answers[spec.name, number])
            self.done["infer"] += 1
        except StartMissed:
            self.done["missed"] += 1
        model.running -= 1

    def _may_unload(self, model):
        return model.pages and not model.is_loading and not model.running

    async def _unload(self, model):
        await self._device.unload(model.spec.model_id)
        model.pages = ()
        self.done["unload"] += 1


def bounds(window):
    """Make a window of none, of one that opens soon, or of one that has closed."""
    if window == "none":
        return None
    opens_ns = now_ns() + (MS // 2 if window == "soon" else -2 * MS)
    return Window(
        earliest_ns=opens_ns, latest_ns=opens_ns + (10_000 * MS if window == "soon" else MS)
    )


names = st.sampled_from(NAMES)
windows = st.sampled_from(("none", "none", "soon", "closed"))
infers = st.tuples(
    st.just("infer"), names, st.integers(0, 2), st.integers(0, 3), st.integers(0, SEEDS), windows
)
loads = st.tuples(st.just("load"), names, st.permutations(range(PAGES_TOTAL)), windows)
others = st.tuples(st.sampled_from(("unload", "unload", "unload", "prepare", "forget")), names)
steps = st.lists(st.one_of(infers, infers, loads, loads, others), min_size=10, max_size=40)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("cuda-orders"))


@pytest.fixture(scope="module")
def answers(archives):
    """What each model says to each request when it is alone on the card."""

    async def ask():
        device = await open_soft_device(SoftCard(), make_graphs=CachedGraphs, host_pages=6)
        found = {}
        for name in NAMES:
            spec = await prepare(device, archives[name])
            await device.load(spec.model_id, list(range(spec.pages)))
            for seed in range(SEEDS):
                found[name, seed] = await answer_alone(device, spec, sample(spec, seed))
            await device.unload(spec.model_id)
        await device.aclose()
        return found

    return trio.run(ask)


@settings(max_examples=40)
@given(
    steps=steps,
    inputs_by=st.sampled_from(("kernel", "copy")),
    may_edit=st.booleans(),
    outstanding=st.integers(1, 3),
)
def test_no_order_of_actions_is_a_hazard(
    archives, answers, steps, inputs_by, may_edit, outstanding
):
    """Weights half there, or another model's, are wrong answers that nobody notices."""
    card = SoftCard()

    async def run():
        device = await open_soft_device(
            card,
            make_graphs=CachedGraphs,
            host_pages=6,
            inputs_by=inputs_by,
            edit_pages_while_running=may_edit,
            load_chunks_outstanding=outstanding,
        )
        try:
            for name in NAMES:
                await prepare(device, archives[name])
            card.set_copy_time(delay_ns=COPY_DELAY_NS)
            with trio.fail_after(60):
                await perform_all(device)
            assert card.counts()["pages"] == PAGES_TOTAL + 1
        finally:
            with trio.CancelScope(shield=True):
                await device.aclose()

    async def perform_all(device):
        async with trio.open_nursery() as nursery:
            lanes = Lanes(device, archives, answers, nursery)
            for model in lanes._models.values():
                model.is_prepared = True
            for step in steps:
                await lanes.perform(step)
            await lanes.settle()
            resident = sum(len(model.pages) for model in lanes._models.values())
            assert card.counts()["mapped"] >= resident

    trio.run(run)
    assert card.hazards == []
    assert card.leaks() == []


async def test_the_orders_get_somewhere(archives, answers):
    """A test of orders in which every step is left out would pass, too."""
    card = SoftCard()
    device = await open_soft_device(card, make_graphs=CachedGraphs, host_pages=6)
    async with trio.open_nursery() as nursery:
        lanes = Lanes(device, archives, answers, nursery)
        for name in NAMES:
            await lanes.perform(("prepare", name))
        for name, order in (("wide", (0, 1, 2, 3)), ("tiny-mlp-a", (3, 2, 1, 0))):
            await lanes.perform(("load", name, order, "none"))
            await lanes.perform(("infer", name, 0, 1, 0, "soon"))
            await lanes.perform(("infer", name, 1, 2, 0, "closed"))
        await lanes.perform(("unload", "wide"))
        await lanes.perform(("load", "tiny-mlp-b", (2, 1, 0, 3), "none"))
        await lanes.perform(("infer", "tiny-mlp-b", 2, 3, 1, "none"))
        await lanes.perform(("forget", "wide"))
        await lanes.settle()
    await device.aclose()

    assert lanes.done == {
        "prepare": 3, "load": 3, "infer": 3, "missed": 2, "unload": 1, "forget": 1,
    }  # fmt: skip
    assert card.hazards == []
