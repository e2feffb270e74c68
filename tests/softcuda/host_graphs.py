"""Graphs whose one kernel is a function of the host: it runs the model's program on the pages."""

import ctypes
import math

import torch
from cuda.bindings import driver as cuda

from cw.devices.cuda.driver import CardFull
from cw.devices.cuda.graphs import CapturedGraph
from cw.devices.program_modules import load_module
from cw.errors import ArchiveInvalid, DeviceFault
from cw.models.torch_dtypes import TORCH_DTYPES
from tests.softcuda.kernels import LAUNCH_FAILED, Kernel, launch_kernel

OUT_OF_MEMORY = 2


class HostGraphs:
    """Implements `cw.devices.cuda.graphs.GraphMaker` with the driver's own captures.

    Args:
        driver: The device's.
        settings: Of the device.
        around: Called by each kernel before it computes, on the stream's thread.
    """

    def __init__(self, driver, settings, around=lambda: None):
        self._driver = driver
        self._by_copy = settings.inputs_by == "copy"
        self._around = around

    def load(self, checked, model):
        return load_module(checked, model), checked.signature

    def capture(self, program, model, layout, address, buffers, stream):
        module, signature = program
        weights = [_weight(layout.tensors[item.name], address) for item in signature.weights]
        graphs = {}
        try:
            for batch_size in sorted(model.batch_sizes, reverse=True):
                work = _Work(module, weights, model, batch_size, self._around)
                ranges = [(address, layout.image_bytes, 0)]
                graphs[batch_size] = self._capture_one(work, buffers, ranges, stream)
        except (ArchiveInvalid, DeviceFault):
            self._driver.synchronize()  # for what was launched to warm up
            for graph in graphs.values():
                self.drop(graph)
            raise
        return graphs

    def small(self, stream):
        kernel = Kernel(lambda _: 0)
        return self._finish(stream, kernel, [], inputs=(), outputs=(), plain=())

    def drop(self, graph):
        _kernel, plain = graph.keeps
        self._driver.drop_executable(graph.executable)
        self._driver.drop_event(graph.first)
        self._driver.drop_event(graph.last)
        for address in plain:
            check(cuda.cuMemFree(address))

    def close(self):
        """Nothing is shared by graphs."""

    def _capture_one(self, work, buffers, ranges, stream):
        plain = []

        def allocate(specs):
            addresses = [int(check(cuda.cuMemAlloc(work.bytes_of(spec)))) for spec in specs]
            plain.extend(addresses)
            return addresses

        outputs = allocate(work.model.outputs)
        inputs = allocate(work.model.inputs) if self._by_copy else ()
        try:
            work.bind(inputs or buffers.inputs, outputs)
            if not self._by_copy:
                inputs_seen = map(self._driver.device_address, buffers.inputs)
                ranges += work.ranges(work.model.inputs, inputs_seen, writes=0)
            else:
                ranges += work.ranges(work.model.inputs, inputs, writes=0)
            ranges += work.ranges(work.model.outputs, outputs, writes=1)
            return self._finish(
                stream,
                Kernel(work.run_as_kernel),
                ranges,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                plain=tuple(plain),
            )
        except BaseException:
            for address in plain:
                check(cuda.cuMemFree(address))
            raise

    def _finish(self, stream, kernel, ranges, *, inputs, outputs, plain):
        first, last = (self._driver.event(timing=True) for _ in range(2))
        try:
            graph = self._captured(stream, kernel, ranges, first, last)
            try:
                executable = self._driver.instantiate(graph)
                self._driver.empty(graph)
            finally:
                check(cuda.cuGraphDestroy(graph))
        except BaseException:
            self._driver.drop_event(first)
            self._driver.drop_event(last)
            raise
        self._driver.upload(executable, stream)
        # Once, to warm up, and without waiting for its end: that is left to the device.
        self._driver.launch(executable, stream)
        return CapturedGraph(
            executable=executable,
            inputs=inputs,
            outputs=outputs,
            first=first,
            last=last,
            keeps=(kernel, plain),
        )

    def _captured(self, stream, kernel, ranges, first, last):
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(cuda.cuStreamBeginCapture(stream, mode))
        self._driver.record_inside(first, stream)
        launch_kernel(stream, kernel, ranges)
        self._driver.record_inside(last, stream)
        graph = check(cuda.cuStreamEndCapture(stream))
        assert self._driver.node_kinds(graph) == ["EVENT_RECORD", "KERNEL", "EVENT_RECORD"]
        return graph


class _Work:
    """One batch of one model."""

    def __init__(self, module, weights, model, batch_size, around):
        self.model = model
        self._module, self._weights = module, weights
        self._batch_size, self._around = batch_size, around

    def bytes_of(self, spec):
        return max(1, spec.size_bytes * self._batch_size)

    def ranges(self, specs, addresses, *, writes):
        pairs = zip(specs, addresses, strict=True)
        return [(address, self.bytes_of(spec), writes) for spec, address in pairs]

    def bind(self, inputs, outputs):
        """Look at the memory as tensors; compute once, as a warm-up does."""
        self._inputs, self._outputs = (
            [
                _at(address, spec.datatype.value, (self._batch_size, *spec.shape))
                for spec, address in zip(specs, addresses, strict=True)
            ]
            for specs, addresses in ((self.model.inputs, inputs), (self.model.outputs, outputs))
        )
        zeros = [torch.zeros_like(tensor) for tensor in self._inputs]
        with torch.no_grad():
            found = self._module(*self._weights, *zeros)
        shapes = [tuple(tensor.shape) for tensor in self._outputs]
        if [tuple(tensor.shape) for tensor in found] != shapes:
            raise ArchiveInvalid(f"program of {self.model.name}: expected outputs of {shapes}")

    def run_as_kernel(self, _argument):
        try:
            self._around()
            with torch.no_grad():
                found = self._module(*self._weights, *self._inputs)
                for target, result in zip(self._outputs, found, strict=True):
                    target.copy_(result)
        except Exception:  # a kernel has no caller: the card breaks
            return LAUNCH_FAILED
        return 0


def check(answer):
    """Return what comes after the status."""
    status, *values = answer
    if int(status) == OUT_OF_MEMORY:
        raise CardFull(f"the driver answers {status!r}")
    if int(status):
        raise DeviceFault(f"the driver answers {status!r}")
    return values[0] if values else None


def _weight(place, address):
    return _at(address + place.offset_bytes, place.datatype, place.shape)


def _at(address, datatype, shape):
    dtype = TORCH_DTYPES[datatype]
    size = max(1, math.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(shape)
