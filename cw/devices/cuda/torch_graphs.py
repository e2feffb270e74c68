"""Graphs captured by torch: the program's own kernels, on weights that torch did not allocate.

Not yet run on a GPU. All graphs share one pool of activations and are captured on the stream that
launches them, so no two may overlap: INFERs take turns. Outputs leave the pool by the last kernels.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import attrs
import torch

from cw.config import CudaSettings
from cw.devices.cpu.inputs import random_batch
from cw.devices.cuda.capture import Capture, capture, capture_small, warm_up
from cw.devices.cuda.driver import CardFull, CudaDriver
from cw.devices.cuda.graphs import Buffers, CapturedGraph
from cw.devices.fitting import CheckedProgram
from cw.devices.program_modules import load_module
from cw.errors import ArchiveInvalid, ConfigError, DeviceFault, HostMemoryFull
from cw.messages import ModelSpec, TensorSpec
from cw.models.image import ImageLayout
from cw.models.program_signature import ProgramSignature
from cw.models.torch_dtypes import TORCH_DTYPES

_REPEATABLE: Final = frozenset({"KERNEL", "MEMSET", "MEMCPY", "EVENT_RECORD", "EMPTY"})
_CAPTURE_ERRORS: Final = range(900, 909)
"""``cudaErrorStreamCaptureUnsupported`` and those after it; they leave the context sound."""


@attrs.frozen
class _Memory:
    """Device memory for torch to look at, by the CUDA array interface."""

    address: int
    size_bytes: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.size_bytes,),
            "typestr": "|u1",
            "data": (self.address, False),
            "version": 3,
        }


@attrs.define(eq=False)
class _Program:
    """A loaded program, and the device memory of its inputs and outputs by largest batch size."""

    module: torch.fx.GraphModule
    signature: ProgramSignature
    tensors: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = attrs.Factory(dict)


class TorchGraphs:
    """The graph maker of a real card.

    Args:
        driver: Whose context torch shares.
        settings: Of the device.

    Raises:
        ConfigError: This torch has no CUDA, or the card has too little memory.
    """

    def __init__(self, driver: CudaDriver, settings: CudaSettings) -> None:
        if not torch.cuda.is_available():
            raise ConfigError(
                f"expected a torch that can use the card, got {torch.__version__}; install a build "
                "with CUDA 13"
            )
        self._driver: Final = driver
        self._settings: Final = settings
        # Torch has no types for this, nor for ExternalStream.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.set_device(settings.ordinal)
        total_bytes = torch.cuda.get_device_properties(settings.ordinal).total_memory
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, settings.graph_memory_bytes / total_bytes), settings.ordinal
        )
        torch.backends.cudnn.benchmark = settings.cudnn_benchmark
        self._device: Final = torch.device("cuda", settings.ordinal)
        self._pool: Final[Any] = torch.cuda.graph_pool_handle()
        self._shells: Final[list[object]] = []

    def load(self, checked: CheckedProgram, model: ModelSpec) -> _Program:
        """Load a program and move what it makes by itself to the card."""
        try:
            module = load_module(checked, model)
            move_program(module, self._device)
        except ArchiveInvalid:
            raise
        # Torch is foreign and documents no errors; none of them is the device's.
        except Exception as exc:
            raise ArchiveInvalid(
                f"program of {model.name}: torch {torch.__version__} can't load it "
                f"({type(exc).__name__}: {exc}); pack it with a version that cw supports"
            ) from exc
        return _Program(module=module, signature=checked.signature)

    def capture(
        self,
        program: _Program,
        model: ModelSpec,
        layout: ImageLayout,
        address: int,
        buffers: Buffers,
        stream: int,
    ) -> Mapping[int, CapturedGraph]:
        """Capture one graph per batch size, the largest first."""
        # The thread's own notion of the card, beside the driver's context.
        torch.cuda.set_device(self._settings.ordinal)
        weights = self._weights(program.signature, layout, address)
        largest = model.batch_sizes[-1]
        if largest not in program.tensors:
            with _told_as_ours(model):
                program.tensors[largest] = self._buffers(model, largest)
        inputs, outputs = program.tensors[largest]
        graphs: dict[int, CapturedGraph] = {}
        try:
            for batch_size in sorted(model.batch_sizes, reverse=True):
                work = _Work(
                    forward=program.module.forward,
                    weights=weights,
                    inputs=tuple(tensor[:batch_size] for tensor in inputs),
                    outputs=tuple(tensor[:batch_size] for tensor in outputs),
                    sources=buffers.inputs,
                )
                with _told_as_ours(model):
                    graphs[batch_size] = self._capture_one(work, stream)
        except (ArchiveInvalid, HostMemoryFull, CardFull):
            for graph in graphs.values():
                self.drop(graph)
            raise
        return graphs

    def small(self, stream: int) -> CapturedGraph:
        """Capture a graph of one small kernel."""
        torch.cuda.set_device(self._settings.ordinal)
        captured, numbers = capture_small(self._driver, stream=stream, pool=self._pool)
        return self._finish(captured, inputs=(), outputs=(), keeps=numbers)

    def drop(self, graph: CapturedGraph) -> None:
        """Free a graph, all but torch's empty shell of it.

        Were that reset, torch would clear the stream's workspaces, which other graphs use (pytorch
        issue 193402). Its nodes are gone since the capture, so a hundred bytes of the host stay.
        """
        shell, _keeps = graph.keeps
        self._driver.drop_executable(graph.executable)
        self._driver.drop_event(graph.first)
        self._driver.drop_event(graph.last)
        self._shells.append(shell)

    def close(self) -> None:
        """Give back what torch has cached."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def _buffers(
        self, model: ModelSpec, batch_size: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Make inputs, of random numbers for the warm-up, and outputs."""
        inputs, outputs = (
            [_empty(spec, batch_size, self._device) for spec in specs]
            for specs in (model.inputs, model.outputs)
        )
        for target, probe in zip(inputs, random_batch(model.inputs, batch_size), strict=True):
            target.copy_(probe)
        return inputs, outputs

    def _weights(
        self, signature: ProgramSignature, layout: ImageLayout, address: int
    ) -> tuple[torch.Tensor, ...]:
        image = _bytes_at(address, layout.image_bytes, self._device)
        weights = []
        for argument in signature.weights:
            place = layout.tensors[argument.name]
            dtype = TORCH_DTYPES[place.datatype]
            end = place.offset_bytes + math.prod(place.shape) * dtype.itemsize
            weights.append(image[place.offset_bytes : end].view(dtype).view(place.shape))
        return tuple(weights)

    def _capture_one(self, work: "_Work", stream: int) -> CapturedGraph:
        sources = self._sources(work) if self._settings.inputs_by == "kernel" else ()

        def captured_work() -> None:
            for target, source in zip(work.inputs, sources, strict=False):
                # A kernel, where `copy_` would be a node for the copy engine.
                torch.add(source, 0, out=_words(target))
            work.run()

        warm_up(self._driver, work.run, stream=stream, runs=self._settings.warm_up_runs)
        captured = capture(self._driver, captured_work, stream=stream, pool=self._pool)
        odd = set(self._driver.node_kinds(int(captured.graph.raw_cuda_graph()))) - _REPEATABLE
        graph = self._finish(
            captured,
            inputs=() if sources else tuple(tensor.data_ptr() for tensor in work.inputs),
            outputs=tuple(tensor.data_ptr() for tensor in work.outputs),
            keeps=(work, sources),
        )
        if odd:
            self.drop(graph)
            raise ValueError(f"nodes that wait for the host: {', '.join(sorted(odd))}")
        return graph

    def _finish(
        self, captured: Capture, *, inputs: tuple[int, ...], outputs: tuple[int, ...], keeps: object
    ) -> CapturedGraph:
        """Hand a graph over. The executable has its nodes now: torch's graph is emptied."""
        self._driver.empty(int(captured.graph.raw_cuda_graph()))
        return CapturedGraph(
            executable=captured.executable,
            inputs=inputs,
            outputs=outputs,
            first=captured.first,
            last=captured.last,
            keeps=(captured.graph, keeps),
        )

    def _sources(self, work: "_Work") -> tuple[torch.Tensor, ...]:
        """Let torch look at the inputs in pinned host memory, where the card sees it."""
        return tuple(
            _words(_bytes_at(self._driver.device_address(address), tensor.nbytes, self._device))
            for address, tensor in zip(work.sources, work.inputs, strict=True)
        )


@attrs.frozen(kw_only=True, eq=False)
class _Work:
    """One batch of one model.

    Attributes:
        forward: Of the program: weights and inputs to outputs.
        weights: In the program's order, in the model's own addresses.
        inputs: On the card, where the program reads them.
        outputs: On the card, outside of the graphs' pool.
        sources: Addresses of pinned host memory from which the inputs come.
    """

    forward: Any
    weights: tuple[torch.Tensor, ...]
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    sources: tuple[int, ...]

    def run(self) -> None:
        """Compute one batch and leave the outputs where no other graph writes."""
        results = self.forward(*self.weights, *self.inputs)
        for target, result in zip(self.outputs, results, strict=True):
            if result.shape != target.shape or result.dtype != target.dtype:
                raise ValueError(
                    f"outputs of {result.dtype}{list(result.shape)}, where its spec says "
                    f"{target.dtype}{list(target.shape)}"
                )
            target.copy_(result)


@contextmanager
def _told_as_ours(model: ModelSpec) -> Iterator[None]:
    """Tell torch's errors apart: the card's room, the program's fault, or the card's.

    Raises:
        ArchiveInvalid: The program fails, or does what a graph can't repeat.
        HostMemoryFull: The card has no room for it.
        DeviceFault: The card broke.
    """
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise HostMemoryFull(
            f"expected room on the card for the graphs of {model.name}, got {exc}; raise "
            "[executor.cuda] graph_memory, or remove models"
        ) from exc
    except (RuntimeError, TypeError, ValueError, IndexError) as exc:
        # What a stream refuses because it is captured is the program's fault.
        if (
            isinstance(exc, torch.AcceleratorError)
            and getattr(exc, "error_code", None) not in _CAPTURE_ERRORS
        ):
            raise DeviceFault(f"capture of {model.name}: {exc}; restart the executor") from exc
        raise ArchiveInvalid(
            f"program of {model.name}: expected work that a graph can repeat, got "
            f"{type(exc).__name__}: {exc}; change the model, and pack it again"
        ) from exc


def move_program(module: torch.fx.GraphModule, device: torch.device) -> None:
    """Have a program compute on another device than the one that it was exported on.

    As torch's own `move_to_device_pass`, but for the weights: those that come with a program have
    no memory (all strides are zero) and would become whole tensors on the card. And the code is
    made anew, without which the graph's change stays without effect.
    """
    for inner in module.modules():
        if not isinstance(inner, torch.fx.GraphModule):
            continue
        for node in inner.graph.nodes:
            if node.kwargs.get("device") is not None:
                node.update_kwarg("device", device)
            if node.target is torch.ops.aten.to.device:
                node.update_arg(1, device)
        inner.recompile()


def _empty(spec: TensorSpec, batch_size: int, device: torch.device) -> torch.Tensor:
    dtype = TORCH_DTYPES[spec.datatype.value]
    return torch.empty((batch_size, *spec.shape), dtype=dtype, device=device)


def _bytes_at(address: int, size_bytes: int, device: torch.device) -> torch.Tensor:
    """Return uint8[size_bytes] over memory that the card sees, which torch does not own."""
    # Without the device torch would copy to the CPU (pytorch issue 54139).
    return torch.as_tensor(_Memory(address, size_bytes), device=device)


def _words(tensor: torch.Tensor) -> torch.Tensor:
    """Look at a tensor as the widest integers that fill it."""
    flat = tensor.reshape(-1).view(torch.uint8)
    for dtype in (torch.int64, torch.int32, torch.int16):
        if flat.numel() % dtype.itemsize == 0:
            return flat.view(dtype)
    return flat
