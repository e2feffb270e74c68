"""As much of `torch.cuda` as `TorchGraphs` uses, on the CPU and over the software driver.

A capture records the operators that are called, as a CUDA stream records kernels: each becomes a
node that computes again, from and into the same memory. So the device's own captures run here, from
the program to the replay on other pages. What it can't show is CUDA's: kernels, workspaces, pools.
"""

import contextlib
import ctypes
import itertools
import types
import weakref
from unittest import mock

import torch
from cuda.bindings import driver as cuda
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cw.devices.cuda import capture, torch_graphs
from cw.devices.cuda.driver import CardFull
from cw.models.torch_dtypes import TORCH_DTYPES
from tests.softcuda.host_graphs import check
from tests.softcuda.kernels import LAUNCH_FAILED, Kernel, launch_kernel

CAPTURE_UNSUPPORTED = 900
FOR_THE_HOST = ("aten::_local_scalar_dense", "aten::nonzero")
"""Operators whose result the host needs: a captured stream refuses them."""
WITHOUT_KERNEL = ("aten::empty", "aten::empty_like", "aten::empty_strided")


class Regions:
    """Memory of the card's that torch was given to look at, for as long as it does.

    Addresses that were given back become other memory, of the host's perhaps.
    """

    def __init__(self):
        self._spans = {}
        self._numbers = itertools.count()

    def bytes_at(self, address, size_bytes, _device):
        memory = (ctypes.c_uint8 * size_bytes).from_address(address)
        number = next(self._numbers)
        self._spans[number] = (address, size_bytes)
        weakref.finalize(memory, self._spans.pop, number)
        return torch.frombuffer(memory, dtype=torch.uint8)

    def empty(self, spec, batch_size, device):
        size_bytes = max(1, spec.size_bytes * batch_size)
        try:
            address = int(check(cuda.cuMemAlloc(size_bytes)))
        except CardFull as exc:
            raise torch.OutOfMemoryError(str(exc)) from exc
        dtype = TORCH_DTYPES[spec.datatype.value]
        flat = self.bytes_at(address, size_bytes, device)
        return flat.view(dtype).view(batch_size, *spec.shape)

    def ranges_of(self, tensors, *, writes):
        """Say which parts of the card's memory tensors lie in."""
        found = []
        for tensor in tensors:
            address = tensor.data_ptr()
            for start, size_bytes in tuple(self._spans.values()):
                if tensor.nbytes and start <= address < start + size_bytes:
                    found.append((address, tensor.nbytes, writes))
                    break
        return found


class Recorder(TorchDispatchMode):
    """Makes a node of each operator that is called, while it computes as ever."""

    def __init__(self, stream, regions, kept):
        super().__init__()
        self._stream, self._regions, self._kept = stream, regions, kept

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name
        if name in FOR_THE_HOST:
            problem = torch.AcceleratorError(f"{name} is not permitted when stream is capturing")
            problem.error_code = CAPTURE_UNSUPPORTED
            raise problem
        results = function(*args, **kwargs)
        if function.is_view or name in WITHOUT_KERNEL:
            return results
        given = [it for it in tree_leaves((args, kwargs)) if isinstance(it, torch.Tensor)]
        targets = [it for it in tree_leaves(results) if isinstance(it, torch.Tensor)]

        def compute(_argument):
            try:
                with torch.no_grad():
                    again = tree_leaves(function(*args, **kwargs))
                    for target, result in zip(targets, again, strict=True):
                        if target is not result:
                            target.copy_(result)
            except Exception:  # a kernel has no caller: the card breaks
                return LAUNCH_FAILED
            return 0

        written = {target.data_ptr() for target in targets}
        read = [tensor for tensor in given if tensor.data_ptr() not in written]
        ranges = self._regions.ranges_of(read, writes=0)
        ranges += self._regions.ranges_of(targets, writes=1)
        kernel = Kernel(compute)
        self._kept.append(kernel)
        launch_kernel(self._stream, kernel, ranges)
        return results


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    def __init__(self, keep_graph=False):
        assert keep_graph, "the executable is to be made by the driver"
        self.kept = []
        self._handle = None

    def raw_cuda_graph(self):
        return int(self._handle)

    def instantiate(self):
        self._executable = check(cuda.cuGraphInstantiate(self._handle, 0))

    def replay(self):
        check(cuda.cuGraphLaunch(self._executable, self._stream))

    @contextlib.contextmanager
    def captured(self, stream, regions):
        self._stream = stream
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(cuda.cuStreamBeginCapture(stream, mode))
        try:
            with Recorder(stream, regions, self.kept):
                yield
        finally:
            self._handle = check(cuda.cuStreamEndCapture(stream))


class Torch:
    """In place of the module: its own `cuda` and `device`, all else is torch's."""

    def __init__(self, regions, total_memory):
        self.fractions = []
        self._regions = regions
        self.cuda = types.SimpleNamespace(
            is_available=lambda: True,
            init=lambda: None,
            set_device=lambda ordinal: None,
            get_device_properties=lambda ordinal: types.SimpleNamespace(total_memory=total_memory),
            set_per_process_memory_fraction=lambda part, ordinal: self.fractions.append(part),
            graph_pool_handle=lambda: (0, 1),
            ExternalStream=lambda stream: stream,
            stream=lambda stream: contextlib.nullcontext(),
            synchronize=lambda: check(cuda.cuCtxSynchronize()),
            empty_cache=lambda: None,
            CUDAGraph=Graph,
            graph=self._graph,
        )

    def __getattr__(self, name):
        return getattr(torch, name)

    def device(self, kind, ordinal=0):
        assert kind == "cuda"
        return torch.device("cpu")

    def zeros(self, *shape, device):
        return torch.zeros(*shape)

    def _graph(self, graph, *, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local", "LOADs go on beside a capture"
        self.cuda.synchronize()
        return graph.captured(stream, self._regions)


@contextlib.contextmanager
def standing_in(total_memory=64 << 30):
    """Have `TorchGraphs` use all this for the length of a block."""
    regions = Regions()
    module = Torch(regions, total_memory)
    with (
        mock.patch.object(torch_graphs, "torch", module),
        mock.patch.object(capture, "torch", module),
        mock.patch.object(torch_graphs, "_bytes_at", regions.bytes_at),
        mock.patch.object(torch_graphs, "_empty", regions.empty),
    ):
        yield module
