"""The cuda device over a card in software: what it sends to the driver, in which order.

`test_device_contract.py` runs over it as well, `test_cuda_faults.py` breaks it, and
`test_cuda_orders.py` tries all orders of actions. What only a real card shows is in `tests/gpu`.
"""

import contextlib
import functools
import threading
import time

import pytest
import trio

from cw.config import ExecutorSettings
from cw.devices.cuda.opening import open_cuda_device
from cw.errors import ConfigError
from cw.units import MS, PAGE_BYTES, GiB, MiB
from tests.actor.device_models import (
    PAGES_TOTAL,
    answer_alone,
    open_soft_device,
    pack_archives,
    prepare,
    sample,
    soft_settings,
)
from tests.softcuda.card import SoftCard, needs_card

pytestmark = needs_card


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("cuda-models"))


@contextlib.asynccontextmanager
async def opened(card, **changes):
    device = await open_soft_device(card, **changes)
    try:
        yield device
    finally:
        await device.aclose()
    assert card.hazards == []


async def test_all_that_was_made_is_freed(archives):
    """A cluster in one process opens devices again and again."""
    card = SoftCard()
    async with opened(card) as device:
        spec = await prepare(device, archives["wide"])
        await device.load(spec.model_id, [0, 1, 2])
        await device.infer(spec.model_id, 1, [])
        assert card.leaks()

    assert card.leaks() == []


async def test_a_forgotten_models_graphs_are_freed(archives):
    """Models come and go for months; what each leaves behind would fill the card."""
    card = SoftCard()
    async with opened(card) as device:
        stays = await prepare(device, archives["tiny-mlp-a"])
        await device.load(stays.model_id, [0])
        before = card.counts()
        spec = await prepare(device, archives["tiny-mlp-b"])
        added = card.counts()["executables"] - before["executables"]
        assert added == len(spec.batch_sizes)
        await device.forget(spec.model_id)

        assert card.counts() == before
        assert await answer_alone(device, stays, sample(stays, 0))


async def test_a_load_has_few_pieces_with_the_card(archives):
    """Whatever else is copied waits for those in front of it."""
    card = SoftCard()
    async with opened(card, load_chunk_bytes=MiB, load_chunks_outstanding=2) as device:
        spec = await prepare(device, archives["wide"])
        card.forget_calls()
        await device.load(spec.model_id, [0, 1, 2])
        with_card, most, copied = 0, 0, 0
        for call in card.calls("cuMemcpyHtoDAsync", "waited"):
            if call.name == "waited":
                with_card -= 1
            else:
                assert call.arguments[2] <= MiB
                with_card, copied = with_card + 1, copied + call.arguments[2]
            most = max(most, with_card)

    assert most == 2
    assert copied == spec.image_bytes


async def test_unload_touches_nothing_and_the_same_pages_need_no_edit(archives):
    """Page tables are edited only where a page goes to another place."""
    card = SoftCard()
    async with opened(card) as device:
        one = await prepare(device, archives["tiny-mlp-a"])
        other = await prepare(device, archives["tiny-mlp-b"])
        await device.load(one.model_id, [0])
        card.forget_calls()
        await device.unload(one.model_id)
        assert card.calls() == []
        await device.load(one.model_id, [0])
        assert not card.calls("cuMemMap", "cuMemUnmap", "cuMemSetAccess")
        await device.infer(one.model_id, 1, [])
        await device.unload(one.model_id)
        card.forget_calls()
        await device.load(other.model_id, [0])
        names = [call.name for call in card.calls()[:5]]

    assert names == ["cuEventSynchronize", "waited", "cuMemUnmap", "cuMemMap", "cuMemSetAccess"]


async def test_an_infer_runs_while_a_load_copies(archives):
    """Two lanes, or swapping would cost INFERs their time."""
    card = SoftCard()
    async with opened(card) as device:
        runs = await prepare(device, archives["tiny-mlp-a"])
        comes = await prepare(device, archives["wide"])
        await device.load(runs.model_id, [3])
        card.set_copy_time(200e6)
        reports = {}

        async def load():
            reports["load"] = await device.load(comes.model_id, [0, 1, 2])

        card.forget_calls()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            while not card.calls("cuMemcpyHtoDAsync"):
                await trio.sleep(0.001)
            reports["infer"] = await device.infer(runs.model_id, 1, [sample(runs, 0)])
            assert "load" not in reports

    assert reports["load"].start_ns < reports["infer"].start_ns
    assert reports["infer"].end_ns < reports["load"].end_ns


async def test_durations_are_the_cards_own(archives):
    """A LOAD that took the card 80 ms must not be planned as what its calls took the host."""
    card = SoftCard()
    async with opened(card, load_chunk_bytes=PAGE_BYTES) as device:
        spec = await prepare(device, archives["wide"])
        card.set_copy_time(delay_ns=20 * MS)
        loaded = await device.load(spec.model_id, [0, 1, 2])
        ran = await device.infer(spec.model_id, 1, [])

    assert loaded.device_ns >= 3 * 20 * MS
    # The output's copy is the host's affair: the graph alone is what is planned.
    assert ran.device_ns <= ran.end_ns - ran.start_ns - 20 * MS


async def test_both_ways_of_inputs_give_the_same(archives):
    """Which is quicker is the card's matter."""
    answers, copies = [], []
    for way in ("kernel", "copy"):
        card = SoftCard()
        async with opened(card, inputs_by=way) as device:
            spec = await prepare(device, archives["tiny-cnn-a"])
            await device.load(spec.model_id, [2])
            card.forget_calls()
            answers.append(await answer_alone(device, spec, sample(spec, 4)))
            copies.append(len(card.calls("cuMemcpyHtoDAsync")))

    assert answers[0] == answers[1]
    assert copies == [0, len(spec.inputs)]


@pytest.mark.parametrize("is_allowed", [False, True])
async def test_pages_are_edited_between_infers_unless_allowed(archives, is_allowed):
    """Some cards fail when page tables change under a running kernel."""
    from tests.softcuda.host_graphs import HostGraphs

    card = SoftCard()
    entered, hold = threading.Event(), threading.Event()
    hold.set()  # until PREPAREs, which run the graphs once, are done

    def around():
        entered.set()
        hold.wait()

    graphs = functools.partial(HostGraphs, around=around)
    async with opened(card, make_graphs=graphs, edit_pages_while_running=is_allowed) as device:
        runs = await prepare(device, archives["tiny-mlp-a"])
        comes = await prepare(device, archives["wide"])
        await device.load(runs.model_id, [3])
        card.forget_calls()
        entered.clear()
        hold.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.infer, runs.model_id, 1, [])
            await trio.to_thread.run_sync(entered.wait)
            nursery.start_soon(device.load, comes.model_id, [0, 1, 2])
            with trio.move_on_after(5 if is_allowed else 0.1):
                while not card.calls("cuMemMap"):
                    await trio.sleep(0.001)
            mapped_meanwhile = bool(card.calls("cuMemMap"))
            hold.set()
        maps = card.calls("cuMemMap")

    assert mapped_meanwhile is is_allowed
    assert len(maps) == 3


async def test_a_capture_keeps_its_pages_until_it_has_run(archives):
    """A graph is run once to warm up, on pages of zeros that are the next model's, too."""
    from tests.softcuda.host_graphs import HostGraphs

    card = SoftCard()
    slowly = functools.partial(HostGraphs, around=lambda: time.sleep(0.01))
    async with opened(card, make_graphs=slowly) as device:
        spec = await prepare(device, archives["tiny-mlp-a"])
        await device.load(spec.model_id, [0])
        assert await answer_alone(device, spec, sample(spec, 0))


async def test_an_idle_card_is_kept_warm_only_if_asked(archives):
    """The small graph takes the lane: never while an action has it, nor where clocks are locked."""
    for after_ns in (0, MS):
        card = SoftCard()
        async with opened(card, keep_warm_ns=after_ns) as device:
            spec = await prepare(device, archives["tiny-mlp-a"])
            await device.load(spec.model_id, [0])
            card.forget_calls()
            with trio.move_on_after(5 if after_ns else 0.02):
                while len(card.calls("cuGraphLaunch")) < 3:
                    await trio.sleep(0.001)
            launches = len(card.calls("cuGraphLaunch"))
            assert await answer_alone(device, spec, sample(spec, 0))
        assert card.leaks() == []
        assert launches == 0 if after_ns == 0 else launches >= 3


async def test_threads_wait_as_they_are_told(archives):
    """Asleep or watching: the driver is told when an event is made."""
    blocking = 1
    for way, flag in (("sleep", blocking), ("spin", 0)):
        card = SoftCard()
        async with opened(card, wait_by=way):
            flags = [call.arguments[0] for call in card.calls("cuEventCreate")]
        assert flags
        assert {found & blocking for found in flags} == {flag}


async def test_a_full_card_is_refused_at_the_start():
    """A setting is at fault, and is named."""
    SoftCard(memory_bytes=GiB)
    settings = ExecutorSettings(device="cuda", host_memory_bytes=2 * PAGE_BYTES)
    from tests.softcuda.host_graphs import HostGraphs

    with pytest.raises(ConfigError, match="graph_memory"):
        await open_cuda_device(settings, make_graphs=HostGraphs)


async def test_pages_are_what_the_card_has_left():
    """Graphs and the driver get theirs first."""
    async with opened(SoftCard(memory_bytes=5 * GiB + 3 * PAGE_BYTES)) as device:
        assert device.describe().pages_total == 2
        assert not device.describe().shared_lanes
        assert device.describe().name == "Software-card"
    async with opened(SoftCard()) as device:
        assert device.describe().pages_total == PAGES_TOTAL


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs_by": "magic"}, "kernel or copy"),
        ({"wait_by": "magic"}, "sleep or spin"),
        ({"hang_limit_ns": 0}, "hang_limit"),
        ({"load_chunk_bytes": 0}, "load_chunk"),
    ],
)
async def test_settings_that_make_no_sense_are_refused(changes, words):
    """Before anything is opened."""
    with pytest.raises(ConfigError, match=words):
        await open_cuda_device(soft_settings(**changes))
