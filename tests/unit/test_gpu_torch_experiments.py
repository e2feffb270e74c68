"""Experiments that need torch, in software: a small network, operators in place of kernels.

Their figures mean nothing there. That they run to their end, ask the driver for nothing that it
refuses, find right what is right, and judge what they measured, is seen without a card.
"""

import contextlib
import time
import types

import pytest
import torch

from cw.devices.cuda.experiments import (
    autotune,
    capture,
    captured,
    jitter,
    keep_warm,
    manual_capture,
    nets,
    pool,
    remap_replay,
    small_copy,
    tensors,
    tlb,
    vmm_async,
)
from cw.devices.cuda.experiments.figures import Figures, Outcome
from cw.devices.cuda.experiments.rig import Rig
from cw.units import MS, MiB
from tests.softcuda.card import SoftCard, needs_card
from tests.softcuda.kernels import Kernel, launch_kernel

pytestmark = needs_card

FEW = {
    jitter: {"_RUNS": 40, "_WARM_RUNS": 2, "_LOAD_PAGES": 2},
    remap_replay: {"_STEADY_RUNS": 20, "_REMAPS": 6, "_HURRIED_CYCLES": 10, "_ERROR_MAX": 1e-4},
    capture: {"_LAUNCHES": 10, "_EXECUTABLES": 5},
    keep_warm: {"_IDLE_NS": (MS, 20 * MS), "_SAMPLES_NS": 20 * MS},
    autotune: {"_RUNS": 10},
    pool: {"_REPLAYS": 20},
    small_copy: {"_REPEATS": 3, "_WARM_REPEATS": 1},
    tlb: {"_TOTAL_BYTES": 32 * MiB},
    vmm_async: {},
    tensors: {},
    manual_capture: {"_SIZE": 32},
}


RIGHT_HERE = (tensors, remap_replay, pool, capture, jitter)
"""Every answer of theirs is about what is computed, and so has to be yes in software, too."""


class SmallNet(torch.nn.Module):
    """Weights with strides of their own, and buffers, as the experiments' networks have."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))).mean((2, 3)))


def make(_name, *, seed=0, device="cuda"):
    torch.manual_seed(seed)
    return SmallNet().eval().to(memory_format=torch.channels_last)


def random_input(_name, batch_size, *, device="cuda"):
    return torch.randn(batch_size, 3, 8, 8).contiguous(memory_format=torch.channels_last)


class CpuTorch:
    """What experiments ask of torch, beyond what stands in for the device's captures."""

    def __init__(self, module, regions):
        self._module = module
        self._regions = regions
        self._streams = []
        self._kept = []
        self.backends = types.SimpleNamespace(cudnn=types.SimpleNamespace(benchmark=False))
        self.cuda = types.SimpleNamespace(
            **vars(module.cuda)
            | {
                "stream": self._stream,
                "memory_reserved": lambda: 0,
                "_sleep": self._sleep,
                "Event": Event,
            }
        )

    def __getattr__(self, name):
        return getattr(self._module, name)

    def as_tensor(self, memory, device):
        assert device == "cuda", "torch would copy to the host"
        return self._regions.bytes_at(memory.address, memory.size_bytes, device)

    def randn(self, *shape, device, **options):
        return torch.randn(*shape, **options)

    def empty(self, *shape, device, **options):
        return torch.empty(*shape, **options)

    @contextlib.contextmanager
    def _stream(self, stream):
        self._streams.append(stream)
        yield
        self._streams.pop()

    def _sleep(self, _cycles):
        self._kept.append(Kernel(lambda _: time.sleep(0.05) or 0))
        launch_kernel(self._streams[-1], self._kept[-1], [])


class Event:
    """In place of `torch.cuda.Event`: what is on the CPU has happened when it was called."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.instant_ns = time.perf_counter_ns()

    def synchronize(self):
        """Nothing to wait for."""

    def elapsed_time(self, other):
        return (other.instant_ns - self.instant_ns) / MS


@pytest.fixture
def rig(monkeypatch):
    card = SoftCard(copy_bytes_per_second=20e9)
    from tests.softcuda import torch_cuda

    regions = torch_cuda.Regions()
    monkeypatch.setattr(torch_cuda, "Regions", lambda: regions)
    with torch_cuda.standing_in() as module:
        rig = Rig(with_torch=False)
        rig._torch = CpuTorch(module, regions)
        for user in (nets, captured):
            for name, own in (("make", make), ("random_input", random_input)):
                if hasattr(user, name):
                    monkeypatch.setattr(user, name, own)
        monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
        yield rig
    assert card.hazards == []
    SoftCard()


@pytest.mark.parametrize("module", FEW, ids=lambda module: module.__name__.rpartition(".")[2])
def test_an_experiment_runs_to_its_end_and_is_judged(module, rig, monkeypatch):
    """A call that is refused, or a name that differs, would be found on a card and a wrong day."""
    for name, value in FEW[module].items():
        monkeypatch.setattr(module, name, value)
    found = module.run(rig)
    verdict = module.verdict(Figures(found))

    assert verdict.words
    assert verdict.outcome is not Outcome.FAIL
    assert len({figure.name for figure in found}) == len(found)
    if module in RIGHT_HERE:
        assert [
            figure.name for figure in found if figure.unit == "yes/no" and not figure.value
        ] == []
