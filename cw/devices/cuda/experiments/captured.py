"""A network whose weights lie in pages, captured as a CUDA graph that times itself."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from cw.devices.cuda.experiments.figures import Measurement, spread
from cw.devices.cuda.experiments.rig import PageRange, Rig
from cw.devices.cuda.experiments.tensors import bytes_at
from cw.units import PAGE_BYTES, SECOND, div_ceil

if TYPE_CHECKING:
    from cw.devices.cuda.capture import Capture

_ALIGNMENT_BYTES: Final = 256
_WARM_RUNS: Final = 3


@attrs.frozen
class Slot:
    """Where one parameter or buffer lies: in a module's table, and in the image."""

    table: dict[str, Any]
    name: str
    tensor: Any
    offset: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor, without padding."""
        return int(self.tensor.numel() * self.tensor.element_size())


def slots_of(net: Any) -> Iterator[Slot]:
    """Lay all parameters and buffers out one behind the other."""
    offset = 0
    for module in net.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    slot = Slot(table, name, tensor.detach(), offset)
                    yield slot
                    offset += div_ceil(slot.size_bytes, _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def pages_of(net: Any) -> int:
    """Say how many pages the weights take."""
    last = max(slots_of(net), key=lambda slot: slot.offset)
    return div_ceil(last.offset + last.size_bytes, PAGE_BYTES)


def bind(torch: Any, net: Any, base: Any) -> None:
    """Copy the weights to `base` (uint8) and have the network use them there."""
    for slot in list(slots_of(net)):
        flat = base[slot.offset : slot.offset + slot.size_bytes].view(slot.tensor.dtype)
        moved = torch.as_strided(flat, slot.tensor.shape, slot.tensor.stride())
        moved.copy_(slot.tensor)
        is_parameter = isinstance(slot.table[slot.name], torch.nn.Parameter)
        slot.table[slot.name] = (
            torch.nn.Parameter(moved, requires_grad=False) if is_parameter else moved
        )


@attrs.frozen
class Timing:
    """One replay: on the device, from nodes inside the graph; and on the host."""

    device_ns: int
    launch_ns: int
    wall_ns: int


class Captured:
    """A graph of one network at one batch size, on an urgent stream of its own.

    Args:
        rig: Whose context it lives in.
        name: ``resnet50`` or ``bert``.
        batch_size: Of its inputs.
        pool: What `torch.cuda.graph_pool_handle` gave, to share memory with other graphs.
        stream: To share a stream as well, which sharing memory asks for.
        seed: Of its weights.
    """

    def __init__(
        self,
        rig: Rig,
        name: str,
        batch_size: int,
        *,
        pool: Any = None,
        stream: Any = None,
        seed: int = 0,
    ) -> None:
        from cw.devices.cuda.experiments import nets  # needs torch, which the list does not

        torch = rig.torch
        self._rig: Final = rig
        self.net: Final = nets.make(name, seed=seed)
        self.inputs: Final = nets.random_input(name, batch_size)
        with torch.no_grad():
            self.expected: Final = self.net(self.inputs).clone()
        count = pages_of(self.net)
        self.range: Final[PageRange] = rig.reserve(count)
        self.pages: Final[list[Any]] = rig.pages(count)
        self.range.map(self.pages)
        bind(torch, self.net, bytes_at(torch, self.range.address, self.range.size_bytes))
        rig.wait()
        self.stream: Final = rig.stream(urgent=True) if stream is None else stream
        self.output: Final = torch.empty_like(self.expected)
        self._captured: Final = self._capture(pool)
        self.graph: Final = self._captured.graph
        self.executable: Final = self._captured.executable
        rig.wait()

    def _capture(self, pool: Any) -> "Capture":
        """Capture in the device's own way."""
        from cw.devices.cuda.capture import capture, warm_up  # need torch, which the list does not

        def work() -> None:
            self.output.copy_(self.net(self.inputs))

        warm_up(self._rig.shipped, work, stream=self.stream, runs=_WARM_RUNS)
        return capture(self._rig.shipped, work, stream=self.stream, pool=pool)

    def launch(self) -> None:
        """Send the graph to its stream."""
        self._rig.shipped.launch(self.executable, self.stream)

    def replay(self) -> Timing:
        """Run it once, and wait for the end."""
        rig = self._rig
        begin_ns = time.perf_counter_ns()
        self.launch()
        launched_ns = time.perf_counter_ns()
        rig.call(rig.driver.cuStreamSynchronize, self.stream)
        end_ns = time.perf_counter_ns()
        return Timing(
            device_ns=rig.between_ns(self._captured.first, self._captured.last),
            launch_ns=launched_ns - begin_ns,
            wall_ns=end_ns - begin_ns,
        )

    def replays(self, count: int, *, idle_ns: int = 0) -> list[Timing]:
        """Run it repeatedly, after an idle time each."""
        timings = []
        for _ in range(count):
            if idle_ns:
                time.sleep(idle_ns / SECOND)
            timings.append(self.replay())
        return timings

    def error(self, expected: Any) -> float:
        """Return the relative error of the last output against what is expected."""
        return relative_error(self.output, expected)


def relative_error(found: Any, expected: Any) -> float:
    """Return the norm of the difference by that of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def device_spread(name: str, timings: list[Timing]) -> list[Measurement]:
    """Sum up the durations on the device."""
    return spread(name, [timing.device_ns for timing in timings])
