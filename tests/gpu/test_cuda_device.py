"""What only a real card can show of the cuda device: graphs, copies and clocks that are its own.

That it behaves as devices do is shown by `tests/actor/test_device_contract.py`, which runs over it,
too; how well it keeps time is measured by `tools/gpu_check`. The bounds here are wide: what breaks
them is wrong, not slow.
"""

import pytest
import trio

from cw.units import MS, PAGE_BYTES, SECOND
from tests.actor.device_models import answer_alone, pack_archives, prepare, sample
from tests.gpu.cuda_models import copies_of, cuda_device

pytestmark = pytest.mark.gpu

PAGES_TOTAL = 16
BYTES_PER_SECOND_MIN = 1e9
BYTES_PER_SECOND_MAX = 500e9
"""Above what any bus to a card carries today: a copy that seems quicker was not waited for."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("gpu-models"))


@pytest.fixture
async def device():
    async with cuda_device(PAGES_TOTAL) as device:
        yield device


async def test_graphs_replay_right_on_any_pages(device, archives):
    """Graphs are captured once, at one address; the pages under it change with every LOAD."""
    wide = await prepare(device, archives["wide"])
    small = await prepare(device, archives["tiny-cnn-a"])
    inputs = {spec.model_id: sample(spec, 1) for spec in (wide, small)}
    expected = {}
    for turn in range(24):
        pages = [(turn + 5 * index) % PAGES_TOTAL for index in range(wide.pages)]
        other = next(page for page in range(PAGES_TOTAL) if page not in pages)
        await device.load(wide.model_id, pages)
        await device.load(small.model_id, [other])
        for spec in (wide, small):
            outputs = await answer_alone(device, spec, inputs[spec.model_id])
            assert outputs == expected.setdefault(spec.model_id, outputs)
        await device.unload(wide.model_id)
        await device.unload(small.model_id)


async def test_loads_beside_infers_change_no_output(device, archives):
    """Copies run while another model computes: that is how swapping costs nothing."""
    runs = await prepare(device, archives["tiny-cnn-a"])
    comes = await prepare(device, archives["wide"])
    await device.load(runs.model_id, [0])
    inputs = sample(runs, 2)
    expected = await answer_alone(device, runs, inputs)
    loads = 0

    async def swap():
        nonlocal loads
        while True:
            await device.load(comes.model_id, [1, 2, 3])
            await device.unload(comes.model_id)
            loads += 1
            await trio.lowlevel.checkpoint()  # a device's calls are none: they can't be cancelled

    async with trio.open_nursery() as nursery:
        nursery.start_soon(swap)
        for _ in range(200):
            assert await answer_alone(device, runs, inputs) == expected
        nursery.cancel_scope.cancel()

    assert loads > 0


async def test_durations_are_those_of_the_device(device, archives):
    """A duration taken before the device has finished would make every plan wrong."""
    spec = await prepare(device, archives["wide"])
    for _ in range(5):
        loaded = await device.load(spec.model_id, [4, 5, 6])
        ran = await device.infer(spec.model_id, 2, [sample(spec, 0)] * 2)
        await device.unload(spec.model_id)
        for report in (loaded, ran):
            assert 0 < report.device_ns <= report.end_ns - report.start_ns + MS
        rate = spec.image_bytes * SECOND / loaded.device_ns
        assert BYTES_PER_SECOND_MIN < rate < BYTES_PER_SECOND_MAX


async def test_a_larger_batch_takes_no_less(device, archives):
    """Timing by events recorded outside the graph has shown the opposite."""
    spec = await prepare(device, archives["tiny-cnn-a"])
    await device.load(spec.model_id, [0])
    middle_ns = {}
    for batch_size in (1, 16):
        reports = [await device.infer(spec.model_id, batch_size, []) for _ in range(101)]
        middle_ns[batch_size] = sorted(report.device_ns for report in reports[1:])[50]

    assert middle_ns[16] >= 0.8 * middle_ns[1]


async def test_a_removed_models_graphs_take_nothing_from_others(device, archives):
    """All graphs share one pool and one stream's workspaces; only the removed model's may go."""
    stays = await prepare(device, archives["tiny-cnn-a"])
    await device.load(stays.model_id, [0])
    inputs = sample(stays, 5)
    expected = await answer_alone(device, stays, inputs)
    free_bytes = []
    for turn in range(12):
        for name in ("tiny-cnn-b", "wide"):
            spec = await prepare(device, archives[name])
            await device.load(spec.model_id, list(range(1, 1 + spec.pages)))
            await device.infer(spec.model_id, spec.batch_sizes[-1], [])
            await device.unload(spec.model_id)
            await device.forget(spec.model_id)
            assert await answer_alone(device, stays, inputs) == expected, (turn, name)
        free_bytes.append(device._parts.driver.free_bytes())

    # The first turns fill the pool; from then on what goes makes room for what comes.
    assert free_bytes[-1] >= free_bytes[3] - PAGE_BYTES


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_two_thousand_models_on_one_card(archives):
    """Registered models cost addresses and graphs; thousands must fit beside the page pool."""
    count = 2_000
    async with cuda_device(PAGES_TOTAL) as device:
        archive = archives["tiny-mlp-a"]
        specs = copies_of(archive, count)
        for spec in specs:
            await device.prepare(spec, archive.program_path, archive.weights_path)
        inputs, answers = sample(specs[0], 3), set()
        for turn, spec in enumerate(specs):
            await device.load(spec.model_id, [turn % PAGES_TOTAL])
            answers.add(await answer_alone(device, spec, inputs))
            await device.unload(spec.model_id)

    assert len(answers) == 1
