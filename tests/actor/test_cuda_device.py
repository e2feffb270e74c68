"""The cuda device over a card in software: what it sends to the driver, in which order, and faults.

`test_device_contract.py` runs over it as well. What only a real card shows is in `tests/gpu`.
"""

import contextlib
import threading

import pytest
import trio

from cw.config import ExecutorSettings
from cw.devices.cuda.opening import open_cuda_device
from cw.errors import ConfigError, DeviceFault
from cw.units import PAGE_BYTES, GiB, MiB
from tests.actor.device_models import (
    PAGES_TOTAL,
    answer_alone,
    pack_archives,
    prepare,
    sample,
    soft_settings,
)
from tests.actor.soft_cuda import CpuGraphs, SoftDriver


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("cuda-models"))


@contextlib.asynccontextmanager
async def opened(driver, **changes):
    device = await open_cuda_device(
        soft_settings(**changes), open_driver=lambda _: driver, make_graphs=CpuGraphs
    )
    try:
        yield device
    finally:
        await device.aclose()


def calls_of(driver, *names):
    return [call for call in driver.calls if call[0] in names]


async def test_all_that_was_made_is_freed(archives):
    """A cluster in one process opens devices again and again."""
    driver = SoftDriver()
    async with opened(driver) as device:
        spec = await prepare(device, archives["wide"])
        await device.load(spec.model_id, [0, 1, 2])
        await device.infer(spec.model_id, 1, [])
        assert driver.leaks()

    assert driver.leaks() == []
    assert driver.broken is None


async def test_a_load_has_few_pieces_with_the_card(archives):
    """Whatever else is copied waits for those in front of it."""
    driver = SoftDriver()
    async with opened(driver, load_chunk_bytes=MiB, load_chunks_outstanding=2) as device:
        spec = await prepare(device, archives["wide"])
        driver.calls.clear()
        await device.load(spec.model_id, [0, 1, 2])
    with_card, most, copied = 0, 0, 0
    for call in calls_of(driver, "copy_in", "waited"):
        if call[0] == "copy_in":
            assert call[2] <= MiB
            with_card, copied = with_card + 1, copied + call[2]
        else:
            with_card -= 1
        most = max(most, with_card)

    assert most == 2
    assert copied == spec.image_bytes


async def test_unload_touches_nothing_and_the_same_pages_need_no_edit(archives):
    """Page tables are edited only where a page goes to another place."""
    driver = SoftDriver()
    async with opened(driver) as device:
        one = await prepare(device, archives["tiny-mlp-a"])
        other = await prepare(device, archives["tiny-mlp-b"])
        await device.load(one.model_id, [0])
        driver.calls.clear()
        await device.unload(one.model_id)
        assert driver.calls == []
        await device.load(one.model_id, [0])
        assert not calls_of(driver, "map", "unmap", "allow_access")
        await device.infer(one.model_id, 1, [])
        await device.unload(one.model_id)
        driver.calls.clear()
        await device.load(other.model_id, [0])
        names = [call[0] for call in driver.calls[:5]]

    assert names == ["wait", "waited", "unmap", "map", "allow_access"]


async def test_an_infer_runs_while_a_load_copies(archives):
    """Two lanes, or swapping would cost INFERs their time."""
    driver = SoftDriver(copy_bytes_per_second=200e6)
    async with opened(driver) as device:
        runs = await prepare(device, archives["tiny-mlp-a"])
        comes = await prepare(device, archives["wide"])
        await device.load(runs.model_id, [3])
        reports = {}

        async def load():
            reports["load"] = await device.load(comes.model_id, [0, 1, 2])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await trio.sleep(0.02)
            reports["infer"] = await device.infer(runs.model_id, 1, [sample(runs, 0)])
            assert "load" not in reports

    assert reports["load"].start_ns < reports["infer"].start_ns
    assert reports["infer"].end_ns < reports["load"].end_ns


async def test_both_ways_of_inputs_give_the_same(archives):
    """Which is quicker is the card's matter."""
    answers, copies = [], []
    for way in ("kernel", "copy"):
        driver = SoftDriver()
        async with opened(driver, inputs_by=way) as device:
            spec = await prepare(device, archives["tiny-cnn-a"])
            await device.load(spec.model_id, [2])
            driver.calls.clear()
            answers.append(await answer_alone(device, spec, sample(spec, 4)))
            copies.append(len(calls_of(driver, "copy_in")))

    assert answers[0] == answers[1]
    assert copies == [0, len(spec.inputs)]


@pytest.mark.parametrize("is_allowed", [False, True])
async def test_pages_are_edited_between_infers_unless_allowed(archives, is_allowed):
    """Some cards fail when page tables change under a running kernel."""
    driver = SoftDriver()
    async with opened(driver, edit_pages_while_running=is_allowed) as device:
        runs = await prepare(device, archives["tiny-mlp-a"])
        comes = await prepare(device, archives["wide"])
        await device.load(runs.model_id, [3])
        entered, hold = trio.Event(), threading.Event()
        token = trio.lowlevel.current_trio_token()
        for number, replay in list(driver.graphs.items()):

            def held(replay=replay):
                token.run_sync_soon(entered.set)
                hold.wait()
                replay()

            driver.graphs[number] = held
        driver.calls.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.infer, runs.model_id, 1, [])
            await entered.wait()
            nursery.start_soon(device.load, comes.model_id, [0, 1, 2])
            with trio.move_on_after(5 if is_allowed else 0.1):
                while not calls_of(driver, "map"):
                    await trio.sleep(0.001)
            mapped_meanwhile = bool(calls_of(driver, "map"))
            hold.set()

    assert mapped_meanwhile is is_allowed
    assert len(calls_of(driver, "map")) == 3


async def test_an_error_of_the_card_is_a_fault_from_then_on(archives):
    """After error 700 nothing works in this process: it must end, not go on with wrong answers."""
    driver = SoftDriver()
    async with opened(driver) as device:
        spec = await prepare(device, archives["tiny-mlp-a"])
        await device.load(spec.model_id, [0])
        await answer_alone(device, spec, sample(spec, 0))
        (address, _page) = calls_of(driver, "map")[-1][1:]
        driver.unmap(address, PAGE_BYTES)  # behind the device's back
        with pytest.raises(DeviceFault, match="700"):
            await device.infer(spec.model_id, 1, [])
        with pytest.raises(DeviceFault, match="700"):
            await prepare(device, archives["tiny-cnn-a"])


async def test_a_refused_mapping_is_a_fault(archives, monkeypatch):
    """The books and the card differ then."""
    driver = SoftDriver()
    async with opened(driver) as device:
        spec = await prepare(device, archives["tiny-mlp-a"])

        def refuse(*_):
            driver.broken = "CUDA_ERROR_UNKNOWN (999)"
            raise DeviceFault("expected cuMemMap to succeed, got CUDA_ERROR_UNKNOWN (999)")

        monkeypatch.setattr(driver, "map", refuse)
        with pytest.raises(DeviceFault, match="cuMemMap"):
            await device.load(spec.model_id, [0])


async def test_a_full_card_is_refused_at_the_start():
    """A setting is at fault, and is named."""
    settings = ExecutorSettings(device="cuda", host_memory_bytes=2 * PAGE_BYTES)
    with pytest.raises(ConfigError, match="graph_memory"):
        await open_cuda_device(
            settings,
            open_driver=lambda _: SoftDriver(memory_bytes=GiB),
            make_graphs=CpuGraphs,
        )


async def test_pages_are_what_the_card_has_left():
    """Graphs and the driver get theirs first."""
    driver = SoftDriver(memory_bytes=5 * GiB + 3 * PAGE_BYTES)
    async with opened(driver) as device:
        assert device.describe().pages_total == 2
        assert not device.describe().shared_lanes
    async with opened(SoftDriver()) as device:
        assert device.describe().pages_total == PAGES_TOTAL


async def test_unknown_ways_of_inputs_are_refused():
    """Before anything is opened."""
    with pytest.raises(ConfigError, match="kernel or copy"):
        await open_cuda_device(soft_settings(inputs_by="magic"), open_driver=SoftDriver)
