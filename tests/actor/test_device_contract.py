"""One suite over every device: whatever stands in for a GPU must behave as the executor expects.

The emulated device computes nothing, so outputs are compared with what the same device gives to one
request alone. `test_devices.py` compares the CPU's with the model's own.
"""

import itertools
import threading

import attrs
import pytest
import trio

from cw.actors.clock import now_ns
from cw.errors import ArchiveInvalid, StartMissed
from cw.messages import Datatype, TensorSpec, Window
from cw.units import MS, SECOND
from tests.actor.device_models import (
    KINDS,
    PAGES_TOTAL,
    answer_alone,
    assert_close,
    open_device,
    open_files,
    pack_archives,
    prepare,
    sample,
    spec_of,
)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("device-models"))


@pytest.fixture(params=KINDS)
async def device(request):
    async with open_device(request.param) as device:
        yield device


async def test_description_is_constant_and_usable(device):
    """The scheduler plans by it for as long as the executor lives."""
    description = device.describe()

    assert description == device.describe()
    assert description.kind in {"cpu", "cuda", "emulated"}
    assert description.pages_total == PAGES_TOTAL
    assert description.load_bytes_per_second > 0


async def test_preparing_twice_changes_nothing(device, archives):
    """A controller that restarts prepares what is prepared already, resident or not."""
    spec = await prepare(device, archives["tiny-mlp-a"])
    await device.load(spec.model_id, [1])
    before = await answer_alone(device, spec, sample(spec, 0))
    await prepare(device, archives["tiny-mlp-a"])

    assert await answer_alone(device, spec, sample(spec, 0)) == before


async def test_reload_on_other_pages_gives_the_same_outputs(device, archives):
    """Pages are interchangeable, or the controller could not give them to anyone."""
    spec = await prepare(device, archives["wide"])
    assert spec.pages == 3
    answers = []
    for pages in ([0, 1, 2], [3, 2, 1], [2, 0, 3]):
        await device.load(spec.model_id, pages)
        answers.append(await answer_alone(device, spec, sample(spec, 3)))
        await device.unload(spec.model_id)

    assert answers[0] == answers[1] == answers[2]


async def test_interleaved_models_never_mix_weights(device, archives):
    """Models of one program share all but their weights; a mix-up is a wrong answer."""
    specs = [await prepare(device, archives[f"tiny-cnn-{half}"]) for half in "ab"]
    inputs = sample(specs[0], 5)
    alone = []
    for spec in specs:
        await device.load(spec.model_id, [0])
        alone.append(await answer_alone(device, spec, inputs))
        await device.unload(spec.model_id)
    for page, spec in enumerate(specs):
        await device.load(spec.model_id, [page])
    for _ in range(5):
        for spec, expected in zip(specs, alone, strict=True):
            assert await answer_alone(device, spec, inputs) == expected

    if device.describe().kind != "emulated":
        assert alone[0] != alone[1]


async def test_swapping_through_too_few_pages(device, archives):
    """More models than fit: the life of a device that serves thousands."""
    names = ("wide", "tiny-mlp-a", "tiny-cnn-a", "tiny-mlp-b", "tiny-cnn-b")
    specs = [await prepare(device, archives[name]) for name in names]
    first = {}
    for turn in range(3):
        for spec in specs:
            pages = [(turn + index) % PAGES_TOTAL for index in range(spec.pages)]
            await device.load(spec.model_id, pages)
            outputs = await answer_alone(device, spec, sample(spec, 8))
            assert first.setdefault(spec.name, outputs) == outputs
            await device.unload(spec.model_id)


async def test_padding_changes_no_answer(device, archives):
    """The scheduler pads batches up to a captured size; callers must not see it."""
    spec = await prepare(device, archives["tiny-cnn-a"])
    await device.load(spec.model_id, [2])
    requests = [sample(spec, seed) for seed in range(5)]
    alone = [await answer_alone(device, spec, inputs) for inputs in requests]
    # A full batch first, so that its rows would show as padding if they were left there.
    for count, batch_size in ((5, 8), (3, 4), (1, 16), (5, 16), (2, 2), (3, 8)):
        report = await device.infer(spec.model_id, batch_size, requests[:count])
        assert len(report.outputs) == count
        for outputs, expected in zip(report.outputs, alone, strict=False):
            assert_close(outputs, expected)


async def test_outputs_come_in_the_order_of_the_inputs(device, archives):
    """An answer handed to another request is the worst that a server can do."""
    spec = await prepare(device, archives["tiny-mlp-a"])
    await device.load(spec.model_id, [0])
    requests = [sample(spec, seed) for seed in range(4)]
    forth = (await device.infer(spec.model_id, 4, requests)).outputs
    back = (await device.infer(spec.model_id, 4, requests[::-1])).outputs

    assert len(set(forth)) == 4
    for outputs, expected in zip(back, forth[::-1], strict=True):
        assert_close(outputs, expected)


async def test_inputs_may_be_views_of_a_message(device, archives):
    """Inputs come as slices of what arrived on the wire, uncopied."""
    spec = await prepare(device, archives["tiny-mlp-a"])
    await device.load(spec.model_id, [0])
    (data,) = sample(spec, 1)
    view = memoryview(b"head" + data + b"tail")[4:-4]

    assert await answer_alone(device, spec, (view,)) == await answer_alone(device, spec, (data,))


async def test_reports_are_consistent(device, archives):
    """Profiles learn from these numbers, and windows are judged by them."""
    before_ns = now_ns()
    archive = archives["tiny-cnn-a"]
    spec = spec_of(archive)
    reports = [await device.prepare(spec, archive.program_path, archive.weights_path)]
    reports.append(await device.load(spec.model_id, [0]))
    reports += [await device.infer(spec.model_id, size, []) for size in spec.batch_sizes]
    after_ns = now_ns()

    for report in reports:
        assert report.start_ns <= report.end_ns
        assert 0 <= report.running_ns <= report.device_ns <= report.end_ns - report.start_ns
    # One after another, on this process's clock; its reading is good to microseconds.
    instants = [t for report in reports for t in (report.start_ns, report.end_ns)]
    assert instants == sorted(instants)
    assert before_ns - 1_000_000 <= instants[0]
    assert instants[-1] <= after_ns + 1_000_000


async def test_shared_lanes_take_turns(device, archives):
    """One timeline plans both lanes only if the device never runs two things at once."""
    specs = [await prepare(device, archives[f"tiny-cnn-{half}"]) for half in "ab"]
    await device.load(specs[0].model_id, [0])
    reports = []

    async def load():
        reports.append(await device.load(specs[1].model_id, [1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        reports.append(await device.infer(specs[0].model_id, 16, []))

    early, late = sorted(reports, key=lambda report: report.start_ns)
    if device.describe().shared_lanes:
        assert early.end_ns <= late.start_ns
    else:
        assert late.start_ns < early.end_ns


async def test_a_probe_runs_and_answers_nobody(device, archives):
    """Every batch size is measured before the first request comes; token ids must not break it."""
    for name in ("tiny-mlp-a", "lookup"):
        spec = await prepare(device, archives[name])
        await device.load(spec.model_id, [0])
        for batch_size in spec.batch_sizes:
            report = await device.infer(spec.model_id, batch_size, [])
            assert report.outputs == ()
            assert report.device_ns > 0
        await device.unload(spec.model_id)


async def test_wrong_pairs_are_refused_and_the_device_goes_on(device, archives, tmp_path):
    """One bad upload must not take down the models beside it."""
    mlp, cnn = archives["tiny-mlp-a"], archives["tiny-cnn-a"]
    good = await prepare(device, mlp)
    await device.load(good.model_id, [0])
    spec = spec_of(cnn)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\0" * 100)
    taller = attrs.evolve(spec, batch_sizes=(1, 1024))
    renamed = attrs.evolve(
        spec, outputs=(TensorSpec(name="logits", datatype=Datatype.FP32, shape=(11,)),)
    )
    for model, program, weights in (
        (spec, mlp.program_path, cnn.weights_path),
        (spec, cnn.program_path, mlp.weights_path),
        (spec, cnn.program_path, broken),
        (spec, cnn.program_path, tmp_path / "missing"),
        (spec, tmp_path / "missing", cnn.weights_path),
        (taller, cnn.program_path, cnn.weights_path),
        (renamed, cnn.program_path, cnn.weights_path),
    ):
        with pytest.raises(ArchiveInvalid):
            await device.prepare(model, program, weights)
        assert len(await answer_alone(device, good, sample(good, 0))) == 1
    await prepare(device, cnn)
    await device.load(spec.model_id, [1])

    assert len(await answer_alone(device, spec, sample(spec, 0))) == 1


async def test_forgotten_models_may_come_back(device, archives):
    """Models are removed and added while others of the same program go on."""
    specs = [await prepare(device, archives[f"tiny-mlp-{half}"]) for half in "ab"]
    await device.load(specs[1].model_id, [0])
    kept = await answer_alone(device, specs[1], sample(specs[1], 0))
    for _ in range(3):
        await device.forget(specs[0].model_id)
        await prepare(device, archives["tiny-mlp-a"])
    await device.load(specs[0].model_id, [1])

    assert len(await answer_alone(device, specs[0], sample(specs[0], 0))) == 1
    assert await answer_alone(device, specs[1], sample(specs[1], 0)) == kept


async def test_pages_given_out_twice_stop_the_device(device, archives):
    """Two models on one page compute nonsense; a bug like that must not be survived."""
    specs = [await prepare(device, archives[f"tiny-mlp-{half}"]) for half in "ab"]
    await device.load(specs[0].model_id, [2])
    for pages in ([2], [PAGES_TOTAL], [-1], [0, 1], []):
        with pytest.raises(AssertionError):
            await device.load(specs[1].model_id, pages)
    with pytest.raises(AssertionError, match="not resident"):
        await device.infer(specs[1].model_id, 1, [])
    await device.load(specs[1].model_id, [3])


async def test_a_cancel_does_not_tear_a_call_apart(device, archives):
    """A device can't stop half-way: what it holds afterwards must be what its books say."""
    spec = await prepare(device, archives["tiny-cnn-a"])
    with trio.CancelScope() as scope:
        scope.cancel()
        await device.load(spec.model_id, [1])
    before = await answer_alone(device, spec, sample(spec, 0))
    await device.unload(spec.model_id)
    await device.load(spec.model_id, [1])

    assert await answer_alone(device, spec, sample(spec, 0)) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_closing_leaves_nothing_behind(kind, archives):
    """Tests, and a cluster in one process, open many devices; each must take all of itself away."""
    async with open_device(kind) as device:  # what torch opens once and keeps
        await prepare(device, archives["tiny-mlp-a"])
    threads, files = threading.active_count(), open_files()
    for _ in range(2):
        async with open_device(kind) as device:
            spec = await prepare(device, archives["tiny-mlp-a"])
            await device.load(spec.model_id, [0])
            await device.infer(spec.model_id, 1, [])
            await device.aclose()

    assert threading.active_count() == threads
    assert open_files() == files


async def test_a_call_begins_inside_its_window(device, archives):
    """The lane's actor gives actions ahead of time and leaves the start to the device."""
    spec = await prepare(device, archives["tiny-mlp-a"])
    opens_ns = now_ns() + 5 * MS
    window = Window(earliest_ns=opens_ns, latest_ns=opens_ns + SECOND)
    loaded = await device.load(spec.model_id, [0], window=window)
    assert opens_ns <= loaded.start_ns <= opens_ns + SECOND

    opens_ns = now_ns() + 5 * MS
    window = Window(earliest_ns=opens_ns, latest_ns=opens_ns + SECOND)
    ran = await device.infer(spec.model_id, 1, [sample(spec, 0)], window=window)
    assert opens_ns <= ran.start_ns <= opens_ns + SECOND


async def test_a_load_that_comes_too_late_takes_no_pages(device, archives):
    """The controller is told, and gives the pages to another."""
    first = await prepare(device, archives["tiny-mlp-a"])
    second = await prepare(device, archives["tiny-mlp-b"])
    closed = Window(earliest_ns=now_ns() - 2 * MS, latest_ns=now_ns() - MS)
    with pytest.raises(StartMissed, match="expected a start"):
        await device.load(first.model_id, [0], window=closed)
    await device.load(second.model_id, [0])
    await device.load(first.model_id, [1])

    assert await answer_alone(device, first, sample(first, 0))


async def test_an_infer_that_comes_too_late_does_not_run(device, archives):
    """A late action would push those behind it out of their windows, too."""
    spec = await prepare(device, archives["tiny-mlp-a"])
    await device.load(spec.model_id, [0])
    closed = Window(earliest_ns=now_ns() - 2 * MS, latest_ns=now_ns() - MS)
    with pytest.raises(StartMissed, match="expected a start"):
        await device.infer(spec.model_id, 1, [sample(spec, 0)], window=closed)


async def test_a_staged_call_follows_the_one_that_runs(device, archives):
    """In order and without overlap, each with its own outputs."""
    spec = await prepare(device, archives["tiny-mlp-a"])
    await device.load(spec.model_id, [0])
    window = Window(earliest_ns=0, latest_ns=now_ns() + 60 * SECOND)
    requests = [sample(spec, seed) for seed in range(6)]
    reports = {}

    async def run(index):
        reports[index] = await device.infer(spec.model_id, 1, [requests[index]], window=window)

    for index in range(0, 6, 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, index)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(run, index + 1)

    in_order = sorted(reports.values(), key=lambda report: report.start_ns)
    for one, other in itertools.pairwise(in_order):
        assert one.end_ns <= other.start_ns
    for index, inputs in enumerate(requests):
        assert_close(reports[index].outputs[0], await answer_alone(device, spec, inputs))
