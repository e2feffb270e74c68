"""Rewriting programs for oneDNN: the same numbers, from weights that lie in place."""

import ctypes

import pytest
import torch
from torch import nn

from cw.devices.cpu import onednn
from cw.devices.cpu.image_plan import plan_image
from cw.devices.cpu.rewriting import rewrite
from cw.messages import Datatype, TensorSpec

pytestmark = pytest.mark.skipif(not onednn.is_available(), reason="this torch can't pack weights")

CHANNELS, EXTENT = 8, 12


class Residual(nn.Module):
    """Two convolutions with norms around a shortcut, projected."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 16, 3, padding=1, stride=2, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.shortcut = nn.Sequential(nn.Conv2d(CHANNELS, 16, 1, stride=2), nn.BatchNorm2d(16))

    def forward(self, x):
        y = self.norm1(self.first(x)).relu()
        return (self.norm2(self.second(y)) + self.shortcut(x)).relu()


class InPlace(nn.Module):
    """Writes into its intermediates, as many published networks do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.body(x)
        y += x
        return self.act(y)


class TwoReaders(nn.Module):
    """A convolution that two operators read: nothing may be done on its way out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x):
        y = self.body(x)
        return y.relu() * y.sigmoid() + self.body(x.relu())


class WrittenLater(nn.Module):
    """What a convolution reads is written into before its result is used."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x):
        read = x * 0.5
        y = self.body(read)
        read.mul_(2.0)
        return (y + read).relu()


class SeenThroughAView(WrittenLater):
    """What is written into shows in a view that was made before."""

    def forward(self, x):
        y = self.body(x)
        view = y.flatten(1)
        y.relu_()
        return view


class WrittenThroughAView(WrittenLater):
    """A view is written into, and what it is a view of is read."""

    def forward(self, x):
        read = x * 0.5
        view = read[:, :4]
        y = self.body(read)
        view.mul_(2.0)
        return (y + read).relu()


class WrittenInput(WrittenLater):
    """The caller's own tensor is written into."""

    def forward(self, x):
        y = self.body(x)
        return y + x.add_(1.0)


class Perceptron(nn.Module):
    """Enough rows of input that fully connected layers gain from packed weights."""

    def __init__(self):
        super().__init__()
        self.widen = nn.Linear(EXTENT, 64)
        self.narrow = nn.Linear(64, 8, bias=False)

    def forward(self, x):
        return self.narrow(self.widen(x).relu())


def conv(activation, **kwargs):
    return nn.Sequential(nn.Conv2d(CHANNELS, 16, 3, **kwargs), nn.BatchNorm2d(16), activation)


NETS = {
    "residual": (Residual, 3),
    "in-place": (InPlace, 1),
    "two-readers": (TwoReaders, 2),
    "written-later": (WrittenLater, 1),
    "seen-through-a-view": (SeenThroughAView, 0),
    "written-through-a-view": (WrittenThroughAView, 0),
    "written-input": (WrittenInput, 0),
    "perceptron": (Perceptron, 2),
    "relu6": (lambda: conv(nn.ReLU6()), 1),
    "silu": (lambda: conv(nn.SiLU(), dilation=2), 1),
    "hardswish": (lambda: conv(nn.Hardswish(), padding=2), 1),
    "depthwise": (lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS), 1),
    "grouped": (lambda: nn.Conv2d(CHANNELS, 16, 3, groups=4, bias=False), 1),
    "no-norm": (lambda: nn.Sequential(nn.Conv2d(CHANNELS, 4, 5), nn.Flatten()), 1),
    "bare-norm": (lambda: nn.BatchNorm2d(CHANNELS), 0),
    "transposed": (lambda: nn.ConvTranspose2d(CHANNELS, 4, 3), 0),
}
SPEC = TensorSpec(name="x", datatype=Datatype.FP32, shape=(CHANNELS, EXTENT, EXTENT))


def exported(build, *, seed):
    """Export a small net with random weights, running statistics as well."""
    torch.manual_seed(seed)
    net = build().eval()
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand_like(tensor) + 0.1 * ("var" in name) - 0.3 * ("var" not in name)
            )
    batch = torch.export.Dim("batch", min=1, max=16)
    sample = torch.randn(2, *SPEC.shape)
    program = torch.export.export(net, (sample,), dynamic_shapes=({0: batch},))
    tensors = {**program.state_dict, **program.constants}
    own = {
        spec.arg.name: tensors[spec.target].detach()
        for spec in program.graph_signature.input_specs
        if spec.target
    }
    return net, program.graph_module, own


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_the_model(name):
    """To 1e-4 of the largest, at every batch size, for weights that it was not rewritten with."""
    build, packed = NETS[name]
    net, module, own = exported(build, seed=3)
    rewritten = rewrite(module, {key: torch.zeros_like(own[key]) for key in own}, [SPEC])
    plan = plan_image(rewritten.parameters, own)
    memory = ctypes.create_string_buffer(plan.size_bytes + 256)
    address = -(-ctypes.addressof(memory) // 256) * 256
    parameters = plan.bind(address)
    plan.write(own, address)

    assert rewritten.packed == packed
    with torch.inference_mode():
        for batch_size in (1, 2, 3, 8, 16):
            x = torch.randn(batch_size, *SPEC.shape)
            (outputs,) = rewritten.module.forward(*parameters, x.clone())
            expected = net(x.clone())
            tolerance = 1e-4 * float(expected.abs().max())
            torch.testing.assert_close(outputs, expected, rtol=0, atol=tolerance)


def test_packed_weights_are_read_where_they_lie():
    """Or a LOAD would change nothing: they count only when they live in accounted pages."""
    _, module, own = exported(Residual, seed=1)
    rewritten = rewrite(module, own, [SPEC])
    plan = plan_image(rewritten.parameters, own)
    memory = ctypes.create_string_buffer(plan.size_bytes + 256)
    address = -(-ctypes.addressof(memory) // 256) * 256
    parameters = plan.bind(address)
    x = torch.randn(2, *SPEC.shape)
    with torch.inference_mode():
        (before,) = rewritten.module.forward(*parameters, x)
        plan.write(own, address)
        (after,) = rewritten.module.forward(*parameters, x)

    assert not before.any()
    assert after.any()


def test_without_packing_a_program_stays_as_it_is():
    """Another torch, or weights that would need more pages: slower, and as right."""
    net, module, own = exported(Residual, seed=2)
    rewritten = rewrite(module, own, [SPEC], why_not="for a test")
    x = torch.randn(2, *SPEC.shape)
    parameters = [parameter.make(own) for parameter in rewritten.parameters]
    with torch.inference_mode():
        (outputs,) = rewritten.module.forward(*parameters, x)
        expected = net(x)

    assert rewritten.packed == 0
    assert rewritten.why_not == "for a test"
    torch.testing.assert_close(outputs, expected)
