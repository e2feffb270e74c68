"""Models, requests and devices for the tests of devices."""

import contextlib
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from cw.cli import compose
from cw.config import CudaSettings, ExecutorSettings
from cw.devices.cpu.device import CpuDevice
from cw.devices.cuda.opening import open_cuda_device
from cw.devices.emulated import EmulatedDevice
from cw.devices.profile_file import read_profile
from cw.messages import Datatype, TensorSpec
from cw.models.archive import verify_archive
from cw.models.examples.tiny import CNN, MLP
from cw.models.pack import pack, pack_weights
from cw.units import PAGE_BYTES
from tests.softcuda.card import SoftCard, needs_card

PAGES_TOTAL = 4
KINDS = (
    "cpu",
    "emulated",
    "emulated-shared",
    pytest.param("soft-cuda", marks=needs_card),
    pytest.param("soft-torch-cuda", marks=needs_card),
    pytest.param("cuda", marks=pytest.mark.gpu),
)


class Wide(torch.nn.Module):
    """One weight of 34 MB, so that it spans three pages, and outputs from its both ends."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(512, 16_500, bias=False)

    def forward(self, row):
        everything = self.body(row)
        return everything[:, :4] + everything[:, -4:]


class Lookup(torch.nn.Module):
    """An embedding of eight rows: any other index is an error of the client's."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(8, 4)

    def forward(self, index):
        return self.table(index).sum(dim=1)


def pack_archives(root):
    """Pack two weight sets of each of two programs, and two programs of their own."""
    packed = {}
    for example in (MLP, CNN):
        first = example.pack(root / f"{example.name}-a", name=f"{example.name}-a", seed=1)
        weights = example.build(2).state_dict()
        packed[f"{example.name}-a"] = first
        packed[f"{example.name}-b"] = pack_weights(
            first, weights, name=f"{example.name}-b", out=root / f"{example.name}-b"
        )
    packed["wide"] = pack(
        Wide(),
        name="wide",
        inputs=(TensorSpec(name="row", datatype=Datatype.FP32, shape=(512,)),),
        out=root / "wide",
        batch_sizes=(1, 2),
    )
    packed["lookup"] = pack(
        Lookup(),
        name="lookup",
        inputs=(TensorSpec(name="index", datatype=Datatype.INT64, shape=(3,)),),
        out=root / "lookup",
        batch_sizes=(1, 2),
    )
    return {name: verify_archive(archive.folder) for name, archive in packed.items()}


@contextlib.asynccontextmanager
async def open_device(kind):
    with standing_in_for_torch() if kind == "soft-torch-cuda" else contextlib.nullcontext():
        async with _open_device(kind) as device:
            yield device


def standing_in_for_torch():
    """Let `TorchGraphs` capture on the CPU."""
    SoftCard()  # before `cuda.bindings`, which looks for a driver then
    from tests.softcuda.torch_cuda import standing_in

    return standing_in()


@contextlib.asynccontextmanager
async def _open_device(kind):
    if kind == "cpu":
        device = await CpuDevice.open(pages_total=PAGES_TOTAL)
    elif kind == "soft-cuda":
        card = SoftCard()
        device = await open_soft_device(card)
    elif kind == "soft-torch-cuda":
        card = SoftCard()
        device = await open_cuda_device(soft_settings())
    elif kind == "cuda":
        memory_bytes = PAGES_TOTAL * PAGE_BYTES
        settings = ExecutorSettings(device="cuda", gpu_memory_bytes=memory_bytes)
        device = await compose.open_device(settings, seed=7)
    else:
        profile = attrs.evolve(
            read_profile("fixed-2ms"),
            shared_lanes=kind == "emulated-shared",
            jitter_ratio=0.1,
        )
        device = EmulatedDevice(profile, pages_total=PAGES_TOTAL, seed=7)
    try:
        yield device
    finally:
        await device.aclose()
    if kind.startswith("soft-"):
        assert card.hazards == []


async def open_soft_device(card, *, make_graphs=None, **changes):
    """Open the cuda device over a card in software, which the caller made."""
    # Here, since it loads `cuda.bindings`, whose next call finds the card.
    from tests.softcuda.host_graphs import HostGraphs

    assert card.counts()["pages"] == 0, "one device per card"
    return await open_cuda_device(soft_settings(**changes), make_graphs=make_graphs or HostGraphs)


def soft_settings(*, host_pages=16, **changes):
    """Make settings of a cuda device small enough for any machine; `changes` are the cuda ones."""
    return ExecutorSettings(
        device="cuda",
        gpu_memory_bytes=PAGES_TOTAL * PAGE_BYTES,
        host_memory_bytes=host_pages * PAGE_BYTES,
        cuda=CudaSettings(**changes),
    )


def spec_of(archive):
    return archive.manifest.to_spec()


async def prepare(device, archive):
    spec = spec_of(archive)
    await device.prepare(spec, archive.program_path, archive.weights_path)
    return spec


def sample(spec, seed):
    """Make one request's inputs."""
    generator = np.random.default_rng(seed)
    return tuple(
        generator.standard_normal(tensor.shape).astype(tensor.datatype.numpy_name).tobytes()
        for tensor in spec.inputs
    )


def assert_close(outputs, expected):
    for one, other in zip(outputs, expected, strict=True):
        values, wanted = (np.frombuffer(data, np.float32) for data in (one, other))
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)


async def answer_alone(device, spec, inputs):
    """Run one request in a batch of its own."""
    report = await device.infer(spec.model_id, 1, [inputs])
    (outputs,) = report.outputs
    return outputs


def open_files():
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())
