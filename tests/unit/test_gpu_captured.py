"""Where the experiments put a network's weights: a slip there would look like a broken card."""

import torch
from torch import nn

from cw.devices.cuda.experiments.captured import bind, pages_of, relative_error, slots_of
from cw.units import PAGE_BYTES


def small_net():
    """Weights with strides of their own, buffers, and an integer."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 5))
    return net.eval().to(memory_format=torch.channels_last)


def test_a_bound_network_computes_the_same_from_its_pages():
    """Outputs are compared bit by bit later: the weights must be the same bits."""
    net, inputs = small_net(), torch.randn(2, 3, 8, 8)
    base = torch.zeros(pages_of(net) * PAGE_BYTES, dtype=torch.uint8)
    with torch.no_grad():
        expected = net(inputs).clone()
        bind(torch, net, base)
        found = net(inputs).clone()
        base.zero_()
        without = net(inputs)

    assert torch.equal(found, expected)
    assert without.isnan().any() or not without.any()
    places = range(base.data_ptr(), base.data_ptr() + PAGE_BYTES)
    assert all(slot.tensor.data_ptr() in places for slot in slots_of(net))


def test_slots_are_aligned_and_apart():
    """Kernels load weights by wide instructions; two tensors in one place would mix."""
    end = 0
    for slot in slots_of(small_net()):
        assert slot.offset % 256 == 0
        assert slot.offset >= end
        end = slot.offset + slot.size_bytes


def test_relative_error_tells_likeness():
    """It decides whether an output counts as right."""
    one = torch.tensor([3.0, 4.0])

    assert relative_error(one, one) == 0
    assert relative_error(torch.zeros(2), one) == 1
