"""Torch's captures, as shipped, on a card in software: weights at their addresses, errors, frees.

`test_device_contract.py` runs over them as well (`soft-torch-cuda`). Operators are recorded, in
place of kernels (`tests/softcuda/torch_cuda.py`); what CUDA does is asked by `tools/gpu_check`.
"""

import contextlib
import weakref

import numpy as np
import pytest
import torch

from cw.devices.cuda.opening import open_cuda_device
from cw.errors import ArchiveInvalid, DeviceFault, HostMemoryFull
from cw.messages import Datatype, TensorSpec
from cw.models.archive import verify_archive
from cw.models.examples.tiny import CNN
from cw.models.pack import pack
from cw.units import GiB
from tests.actor.device_models import (
    answer_alone,
    assert_close,
    pack_archives,
    prepare,
    sample,
    soft_settings,
    standing_in_for_torch,
)
from tests.softcuda.card import SoftCard, needs_card

pytestmark = needs_card

ROW = (TensorSpec(name="row", datatype=Datatype.FP32, shape=(4,)),)


class Positions(torch.nn.Module):
    """Makes a tensor by itself, on the device that it was exported on."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 4)

    def forward(self, row):
        return self.body(row) + torch.arange(4, dtype=torch.float32, device=row.device)


torch.manual_seed(11)
POSITIONS = Positions().eval()


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = tmp_path_factory.mktemp("torch-graphs")
    own = pack(POSITIONS, name="positions", inputs=ROW, out=root / "own", batch_sizes=(1, 2))
    return pack_archives(root) | {"positions": verify_archive(own.folder)}


@contextlib.asynccontextmanager
async def opened(**changes):
    """Open a device with the shipped graphs; give it, its card and what stands in for torch."""
    with standing_in_for_torch() as module:
        card = SoftCard()
        device = await open_cuda_device(soft_settings(**changes))
        try:
            yield device, card, module
        finally:
            await device.aclose()


async def test_weights_are_read_from_the_models_own_pages(archives):
    """Bound at addresses, not copied: the graph's answers are those of the weights loaded there."""
    async with opened() as (device, card, _):
        for half, seed in (("a", 1), ("b", 2)):
            spec = await prepare(device, archives[f"tiny-cnn-{half}"])
            await device.load(spec.model_id, [2])
            inputs = sample(spec, 1)
            assert_close(
                await answer_alone(device, spec, inputs), answer_of(CNN.build(seed), inputs)
            )
            await device.unload(spec.model_id)
        spec = await prepare(device, archives["positions"])
        await device.load(spec.model_id, [2])
        inputs = sample(spec, 1)
        assert_close(await answer_alone(device, spec, inputs), answer_of(POSITIONS, inputs))
        assert card.hazards == []


def answer_of(module, inputs):
    """Compute one sample by the module itself, as bytes."""
    (data,) = inputs
    shape = (1, 4) if module is POSITIONS else (1, *CNN.inputs[0].shape)
    row = torch.from_numpy(np.frombuffer(data, np.float32).copy()).reshape(shape)
    with torch.no_grad():
        return (module(row).numpy().tobytes(),)


async def test_what_a_program_makes_by_itself_is_made_on_the_card(archives):
    """Torch's own pass leaves the code as it was: a tensor on the host, in a capture."""
    from cw.devices.cuda.torch_graphs import move_program

    exported = torch.export.export(POSITIONS, (torch.zeros(2, 4),))
    module = exported.graph_module
    assert "device(type='cpu')" in module.code
    move_program(module, torch.device("meta"))

    assert "device(type='cpu')" not in module.code
    weights = [torch.empty(4, 4, device="meta"), torch.empty(4, device="meta")]
    (found,) = module(*weights, torch.empty(2, 4, device="meta"))
    assert found.device.type == "meta"


async def test_both_ways_of_inputs_give_the_same(archives):
    """A kernel that reads the host's memory, or a copy before the graph."""
    answers = []
    for way in ("kernel", "copy"):
        async with opened(inputs_by=way) as (device, card, _):
            spec = await prepare(device, archives["tiny-cnn-a"])
            await device.load(spec.model_id, [1])
            card.forget_calls()
            answers.append(await answer_alone(device, spec, sample(spec, 3)))
            assert len(card.calls("cuMemcpyHtoDAsync")) == (way == "copy") * len(spec.inputs)
            assert card.hazards == []

    assert_close(*answers)


async def test_graphs_are_captured_the_largest_first(archives):
    """The pool is as large as its first graph needs, and one executable is made of each."""
    async with opened() as (device, card, module):
        spec = await prepare(device, archives["tiny-mlp-a"])
        graphs = device._models[spec.model_id].graphs
        assert list(graphs) == sorted(spec.batch_sizes, reverse=True)
        # One capture, one executable and one upload each; torch makes none of them.
        assert len(card.calls("cuGraphInstantiateWithFlags")) == len(spec.batch_sizes)
        assert len(card.calls("cuGraphUpload")) == len(spec.batch_sizes)
        assert module.fractions == [4 * GiB / (64 << 30)]


async def test_a_forgotten_models_graphs_and_their_nodes_are_freed(archives):
    """Torch keeps an empty graph; whatever takes memory is the driver's, and goes."""
    async with opened(keep_warm_ns=10**12) as (device, card, _):
        before = card.counts()
        spec = await prepare(device, archives["tiny-mlp-a"])
        assert card.counts()["executables"] == before["executables"] + len(spec.batch_sizes)
        nodes = len(card.calls("cuGraphDestroyNode"))
        assert nodes > 3 * len(spec.batch_sizes)
        await device.forget(spec.model_id)
        after = card.counts()

        for kind in ("executables", "events", "mapped", "reserved", "host"):
            assert after[kind] == before[kind], kind
        again = await prepare(device, archives["tiny-mlp-a"])
        await device.load(again.model_id, [0])
        assert await answer_alone(device, again, sample(again, 0))
    assert card.counts()["executables"] == card.counts()["events"] == 0


async def test_a_program_goes_with_its_last_model(archives):
    """Its graph is a cycle of Python objects, megabytes of them, and the collector is kept away."""
    async with opened() as (device, _, _):
        specs = [await prepare(device, archives[f"tiny-cnn-{half}"]) for half in "ab"]
        program = weakref.ref(device._programs[specs[0].program_sha256].loaded.module)
        await device.forget(specs[0].model_id)
        await prepare(device, archives["tiny-mlp-a"])
        assert program() is not None
        await device.forget(specs[1].model_id)
        await prepare(device, archives["tiny-mlp-b"])

        assert program() is None


async def test_what_a_stream_refuses_in_a_capture_is_refused_and_leaves_nothing(
    archives, monkeypatch
):
    """A graph can't wait for the host; the model's owner is told, and the others go on."""
    async with opened() as (device, card, _):
        monkeypatch.setattr("tests.softcuda.torch_cuda.FOR_THE_HOST", ("aten::arange",))
        stays = await prepare(device, archives["tiny-mlp-a"])
        await device.load(stays.model_id, [0])
        before = card.counts()
        with pytest.raises(ArchiveInvalid, match=r"a graph can repeat.*capturing"):
            await prepare(device, archives["positions"])
        after = card.counts()

        for kind in ("executables", "events", "mapped", "reserved", "host"):
            assert after[kind] == before[kind], kind
        assert await answer_alone(device, stays, sample(stays, 0))


async def test_no_room_for_a_graph_is_no_fault(archives):
    """Of torch's own memory, or of the driver's."""
    for function in ("cuMemAlloc", "cuGraphInstantiateWithFlags", "cuEventCreate"):
        async with opened() as (device, card, _):
            before = card.counts()
            card.fail(function, 2, after=1)
            with pytest.raises(HostMemoryFull, match="tiny-cnn-a"):
                await prepare(device, archives["tiny-cnn-a"])
            after = card.counts()
            for kind in ("executables", "events", "mapped", "reserved", "host"):
                assert after[kind] == before[kind], (function, kind)
            spec = await prepare(device, archives["tiny-cnn-a"])
            await device.load(spec.model_id, [0])
            assert await answer_alone(device, spec, sample(spec, 0))


async def test_a_fault_of_the_card_in_a_capture_is_a_fault(archives):
    """Told as the program's error it would let the executor go on with a broken card."""
    async with opened() as (device, card, module):
        problem = torch.AcceleratorError("an illegal memory access was encountered")
        problem.error_code = 700

        def broken(*_, **__):
            raise problem

        module.cuda.stream = broken
        with pytest.raises(DeviceFault, match="illegal memory access"):
            await prepare(device, archives["tiny-mlp-a"])
        assert card.counts()["executables"] == 0


async def test_outputs_of_another_shape_are_the_programs_fault(archives):
    """Checked at the capture, since a replay checks nothing."""
    from cw.devices.cuda.torch_graphs import _Work

    work = _Work(
        forward=lambda row: (row.sum(dim=1),),
        weights=(),
        inputs=(torch.zeros(2, 4),),
        outputs=(torch.zeros(2, 4),),
        sources=(),
    )
    with pytest.raises(ValueError, match=r"outputs of torch.float32\[2\]"):
        work.run()


def test_words_fill_any_tensor():
    """Inputs are read by integers as wide as fit: none may be left over."""
    from cw.devices.cuda.torch_graphs import _words

    for shape, dtype, wide in (
        ((2, 4), torch.float32, torch.int64),
        ((3,), torch.float32, torch.int32),
        ((3,), torch.float16, torch.int16),
        ((5,), torch.bool, torch.uint8),
    ):
        tensor = torch.zeros(shape, dtype=dtype)
        words = _words(tensor)
        assert words.dtype == wide
        assert words.nbytes == tensor.nbytes
        assert words.data_ptr() == tensor.data_ptr()
