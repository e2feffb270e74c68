"""The tests for a GPU, run over a card in software: a mistake of theirs would cost time on a card.

They use torch's captures as shipped, with operators in place of kernels. What they find out about a
card, only a card can tell.
"""

import contextlib
import inspect

import attrs
import pytest
import trio

from cw.devices.cuda.opening import open_cuda_device
from cw.units import PAGE_BYTES
from tests.actor.device_models import pack_archives, soft_settings, standing_in_for_torch
from tests.gpu import test_cuda_device as gpu
from tests.softcuda.card import SoftCard, needs_card

pytestmark = needs_card

COPY_BYTES_PER_SECOND = 20e9
"""Of a slow bus: durations of LOADs are judged by it."""
TESTS = {
    name: test
    for name, test in inspect.getmembers(gpu, inspect.iscoroutinefunction)
    if name.startswith("test_") and "device" in inspect.signature(test).parameters
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("gpu-tests"))


@contextlib.asynccontextmanager
async def opened():
    with standing_in_for_torch():
        card = SoftCard(copy_bytes_per_second=COPY_BYTES_PER_SECOND)
        settings = attrs.evolve(soft_settings(), gpu_memory_bytes=gpu.PAGES_TOTAL * PAGE_BYTES)
        device = await open_cuda_device(settings)
        try:
            yield device
        finally:
            await device.aclose()
        assert card.hazards == []
        assert card.counts()["executables"] == 0


@pytest.mark.parametrize("name", TESTS)
async def test_a_test_for_a_gpu_ends_and_passes_in_software(archives, name, monkeypatch):
    """Those that can't pass here would not on a card either."""
    monkeypatch.setattr(gpu, "BYTES_PER_SECOND_MIN", 1e7)  # a busy machine is no bus
    with trio.fail_after(50):
        async with opened() as device:
            await TESTS[name](device, archives)


def test_all_but_the_slow_ones_are_run():
    """A test that was renamed must not drop out."""
    assert len(TESTS) == len([name for name in vars(gpu) if name.startswith("test_")]) - 1
