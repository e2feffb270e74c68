"""What a broken or a full card does to the cuda device: no wrong answers, no endless waits."""

import contextlib
import threading

import pytest
import trio

from cw.errors import ConfigError, DeviceFault, HostMemoryFull
from cw.messages import Window
from cw.units import MS, PAGE_BYTES, SECOND
from tests.actor.device_models import (
    answer_alone,
    open_soft_device,
    pack_archives,
    prepare,
    sample,
)
from tests.gpu.cuda_models import copies_of
from tests.softcuda.card import ILLEGAL_ADDRESS, SoftCard, needs_card

pytestmark = needs_card

OUT_OF_MEMORY = 2
UNKNOWN = 999
HANG_LIMIT_NS = SECOND // 2
"""Far above what anything takes here, on a busy machine as well."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("cuda-faults"))


@contextlib.asynccontextmanager
async def opened(card, **changes):
    """Open a device that may break: what it can't free then ends with the process, here by us."""
    device = await open_soft_device(card, host_pages=4, **changes)
    try:
        yield device
    finally:
        await device.aclose()
        for thread in threading.enumerate():
            if thread.name.startswith("cuda-"):
                await trio.to_thread.run_sync(thread.join)
        SoftCard()


async def test_an_error_of_the_card_is_a_fault_from_then_on(archives):
    """After error 700 nothing works in this process: it must end, not go on with wrong answers."""
    card = SoftCard()
    async with opened(card) as device:
        spec = await prepare(device, archives["tiny-mlp-a"])
        await device.load(spec.model_id, [0])
        await answer_alone(device, spec, sample(spec, 0))
        card.break_down(ILLEGAL_ADDRESS)
        with pytest.raises(DeviceFault, match="700"):
            await device.infer(spec.model_id, 1, [])
        with pytest.raises(DeviceFault, match="700"):
            await prepare(device, archives["tiny-cnn-a"])


async def test_an_access_to_what_is_not_mapped_is_a_fault(archives):
    """A card does not answer with zeros, nor does its stand-in."""
    card = SoftCard()
    async with opened(card) as device:
        spec = await prepare(device, archives["tiny-mlp-a"])
        await device.load(spec.model_id, [0])
        address = card.calls("cuMemMap")[-1].arguments[0]
        device._parts.driver.unmap(address, PAGE_BYTES)  # behind the device's back
        with pytest.raises(DeviceFault, match="700"):
            await device.infer(spec.model_id, 1, [])


@pytest.mark.parametrize("function", ["cuMemMap", "cuMemSetAccess", "cuMemcpyHtoDAsync"])
@pytest.mark.parametrize("status", [UNKNOWN, OUT_OF_MEMORY])
async def test_a_load_that_is_refused_is_a_fault(archives, function, status):
    """The books and the card differ then, also where only memory lacks."""
    card = SoftCard()
    async with opened(card) as device:
        spec = await prepare(device, archives["wide"])
        card.fail(function, status, after=1 if function != "cuMemSetAccess" else 0)
        with pytest.raises(DeviceFault, match=function.removesuffix("Async")):
            await device.load(spec.model_id, [0, 1, 2])


@pytest.mark.parametrize(
    ("function", "after"),
    [
        ("cuMemHostAlloc", 0),
        ("cuMemHostAlloc", 1),
        ("cuMemAddressReserve", 0),
        ("cuMemAlloc", 2),
        ("cuGraphInstantiateWithFlags", 1),
    ],
)
async def test_no_room_for_a_model_is_no_fault_and_leaves_nothing(archives, function, after):
    """A card full of models goes on with those that it has."""
    card = SoftCard()
    async with opened(card) as device:
        stays = await prepare(device, archives["tiny-mlp-a"])
        await device.load(stays.model_id, [0])
        before = card.counts()
        card.fail(function, OUT_OF_MEMORY, after=after)
        with pytest.raises(HostMemoryFull, match="tiny-cnn-a"):
            await prepare(device, archives["tiny-cnn-a"])

        assert card.counts() == before
        assert await answer_alone(device, stays, sample(stays, 0))
        comes = await prepare(device, archives["tiny-cnn-a"])
        await device.load(comes.model_id, [1])
        assert await answer_alone(device, comes, sample(comes, 0))
        assert card.hazards == []


async def test_no_host_memory_for_an_image_leaves_nothing(archives):
    """Four pages of it: one wide model fits, and not another."""
    card = SoftCard()
    async with opened(card) as device:
        first, second = copies_of(archives["wide"], 2)
        files = (archives["wide"].program_path, archives["wide"].weights_path)
        await device.prepare(first, *files)
        before = card.counts()
        with pytest.raises(HostMemoryFull, match="host_memory"):
            await device.prepare(second, *files)
        assert card.counts() == before


@pytest.mark.parametrize("what", ["infer", "load", "prepare"])
async def test_a_card_that_never_finishes_is_a_fault_within_a_bound(archives, what):
    """A kernel that hangs must not hang the executor: its supervisor waits for its end."""
    card = SoftCard()
    async with opened(card, hang_limit_ns=HANG_LIMIT_NS) as device:
        one = await prepare(device, archives["tiny-mlp-a"])
        other = await prepare(device, archives["tiny-mlp-b"])
        await device.load(one.model_id, [0])
        calls = {
            "infer": lambda: device.infer(one.model_id, 1, []),
            "load": lambda: device.load(other.model_id, [1]),
            "prepare": lambda: prepare(device, archives["tiny-cnn-a"]),
        }
        with card.stalled(), trio.fail_after(20):
            with pytest.raises(DeviceFault, match="hang_limit"):
                await calls[what]()
            # And so for all that comes after, on both lanes, without another wait.
            for call in calls.values():
                with pytest.raises((DeviceFault, AssertionError)):
                    await call()
            await device.aclose()


async def test_a_staged_call_learns_of_the_fault_too(archives):
    """It waits behind the one that hangs, and would wait for ever."""
    card = SoftCard()
    faults = []
    async with opened(card, hang_limit_ns=HANG_LIMIT_NS) as device:
        spec = await prepare(device, archives["tiny-mlp-a"])
        await device.load(spec.model_id, [0])

        async def infer():
            try:
                window = Window(earliest_ns=0, latest_ns=2**62)
                await device.infer(spec.model_id, 1, [], window=window)
            except DeviceFault as fault:
                faults.append(fault)

        with card.stalled(), trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(infer)
                nursery.start_soon(infer)
            await device.aclose()

    assert len(faults) == 2


async def test_slow_work_is_not_taken_for_a_hang(archives):
    """Many waits within the bound may last longer together."""
    card = SoftCard()
    async with opened(card, hang_limit_ns=HANG_LIMIT_NS) as device:
        spec = await prepare(device, archives["wide"])
        card.set_copy_time(delay_ns=HANG_LIMIT_NS // 6)
        report = await device.load(spec.model_id, [0, 1, 2])

    assert report.device_ns > HANG_LIMIT_NS


@pytest.mark.parametrize(
    ("function", "after", "words"),
    [
        ("cuMemCreate", 2, "5 pages"),
        ("cuMemHostRegister", 0, "host_memory"),
        ("cuMemcpyHtoDAsync", 1, "working order"),
    ],
)
async def test_a_card_that_can_t_be_opened_leaves_nothing(function, after, words):
    """Whoever opens it again, after a setting was changed, must find the card as it was."""
    card = SoftCard()
    card.fail(function, OUT_OF_MEMORY, after=after)
    with pytest.raises(ConfigError, match=words):
        await open_soft_device(card, host_pages=4)

    assert card.leaks() == []
    device = await open_soft_device(card, host_pages=4)
    await device.aclose()


async def test_a_fault_that_comes_while_idle_is_told_by_the_next_action(archives):
    """The small graph that keeps the card warm finds it first, and has nobody to tell."""
    card = SoftCard()
    async with opened(card, keep_warm_ns=2 * MS) as device:
        spec = await prepare(device, archives["tiny-mlp-a"])
        await device.load(spec.model_id, [0])
        card.break_down(ILLEGAL_ADDRESS)
        with trio.fail_after(10):
            while card.calls()[-1].name == "soft_break_card":  # nobody was told yet
                await trio.sleep(0.001)
        with pytest.raises(DeviceFault, match="700"):
            await device.infer(spec.model_id, 1, [])
