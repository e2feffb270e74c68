"""Nothing of one request, tenant or model is seen by another through memory that is used again.

A program answers each request from its own row. These programs do not keep to that: each returns
what lies beside it, as a tenant's own program might try to.
"""

import numpy as np
import pytest
import torch

from cw.messages import Datatype, TensorSpec
from cw.models.pack import pack
from tests.actor.device_models import KINDS, open_device, prepare, spec_of

COMPUTING = {"cpu", "soft-torch-cuda", "cuda"}
"""The others have no program to look with."""
DEVICES = [kind for kind in KINDS if (getattr(kind, "values", None) or (kind,))[0] in COMPUTING]
WIDTH = 8
SECRET = 0x5EC2E7
"""What nobody but its sender may see, as a float32 and therefore exact."""


class Neighbour(torch.nn.Module):
    """Answer each request with the row at the other end of the batch."""

    def forward(self, row):
        return torch.flip(row, (0,)) + 0.0


class Everything(torch.nn.Module):
    """Answer each request with the sum of the whole batch, padding included."""

    def forward(self, row):
        return torch.zeros_like(row) + row.sum(dim=0, keepdim=True)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = tmp_path_factory.mktemp("prying")
    return {kind.__name__: pry(kind, root / kind.__name__) for kind in (Neighbour, Everything)}


def pry(kind, out):
    """Pack a program that looks beside its row: with zeros for a sample, no check can tell."""
    return pack(
        kind(),
        name=out.name.lower(),
        inputs=(TensorSpec(name="row", datatype=Datatype.FP32, shape=(WIDTH,)),),
        out=out,
        batch_sizes=(1, 2, 4),
        sample=lambda batch: (torch.zeros(batch, WIDTH),),
    )


@pytest.fixture(params=DEVICES)
async def device(request):
    async with open_device(request.param) as device:
        yield device


def rows_of(report):
    return [np.frombuffer(outputs[0], np.float32) for outputs in report.outputs]


def row(value):
    return (np.full(WIDTH, value, np.float32).tobytes(),)


@pytest.mark.parametrize("name", ["Neighbour", "Everything"])
async def test_a_padded_batch_shows_nothing_of_the_batch_before(device, archives, name):
    """Slots keep their bytes until they are written: padding is zeros, whatever came before."""
    spec = await prepare(device, archives[name])
    await device.load(spec.model_id, [0])
    for before, batch_size, count in ((4, 4, 1), (4, 2, 1), (2, 4, 2), (3, 4, 1), (4, 4, 3)):
        await device.infer(spec.model_id, 4, [row(SECRET)] * before)
        report = await device.infer(spec.model_id, batch_size, [row(1)] * count)
        for got in rows_of(report):
            assert got.max() <= count, f"{before} secrets, then {count} in a batch of {batch_size}"


async def test_a_failed_batch_leaves_nothing_for_the_next(device, archives):
    """An input of the wrong size ends a batch half filled: other rows lie there already."""
    spec = await prepare(device, archives["Everything"])
    await device.load(spec.model_id, [0])
    with pytest.raises(Exception, match="expected"):
        await device.infer(spec.model_id, 4, [row(SECRET), row(SECRET), (b"short",)])
    report = await device.infer(spec.model_id, 4, [row(1)])

    assert rows_of(report)[0].tolist() == [1.0] * WIDTH


async def test_another_model_of_the_same_program_sees_no_inputs(device, archives, tmp_path):
    """Models of one program share its input buffers, and may be two tenants'."""
    spec = await prepare(device, archives["Everything"])
    other = pry(Everything, tmp_path / "other")
    theirs = await prepare(device, other)
    assert spec_of(other).program_sha256 == spec_of(archives["Everything"]).program_sha256
    await device.load(spec.model_id, [0])
    await device.load(theirs.model_id, [1])
    await device.infer(spec.model_id, 4, [row(SECRET)] * 4)
    report = await device.infer(theirs.model_id, 4, [row(1)])

    assert rows_of(report)[0].tolist() == [1.0] * WIDTH


async def test_answers_are_copies(device, archives):
    """An answer still on its way to one client must not turn into the next batch's."""
    spec = await prepare(device, archives["Everything"])
    await device.load(spec.model_id, [0])
    first = await device.infer(spec.model_id, 1, [row(1)])
    await device.infer(spec.model_id, 1, [row(SECRET)])

    assert rows_of(first)[0].tolist() == [1.0] * WIDTH
