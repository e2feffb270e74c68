"""A card in software: pages that are really mapped, streams that are really asynchronous.

Device memory is host memory. A page is a file in memory, mapped where the device says; each stream
is a thread; a graph is a Python function. What touches memory that is not mapped breaks the card
for good, as error 700 does.
"""

import ctypes
import io
import itertools
import math
import mmap
import os
import queue
import threading
import time

import torch

from cw.devices import address_space
from cw.devices.cuda.graphs import CapturedGraph
from cw.errors import ArchiveInvalid, DeviceFault
from cw.models.torch_dtypes import TORCH_DTYPES
from cw.units import PAGE_BYTES, GiB

_GRANULARITY = 2 * 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FIXED = 0x10


class SoftDriver:
    """Implements `cw.devices.cuda.driver.Driver`.

    Args:
        memory_bytes: Of the card.
        copy_bytes_per_second: At which copies to the card go; None: as fast as they can.
    """

    def __init__(self, ordinal=0, *, memory_bytes=64 * GiB, copy_bytes_per_second=None):
        self.calls = []
        self.broken = None
        self.graphs = {}
        self.plain = {}  # sizes of device memory that is not made of pages, by address
        self._memory_bytes = memory_bytes
        self._copy_bytes_per_second = copy_bytes_per_second
        self._numbers = itertools.count(1)
        self._pages, self._mapped, self._accessible = {}, {}, set()
        self._reserved, self._pinned, self._allocated = {}, {}, {}
        self._streams, self._events, self._instants = {}, {}, {}

    def _note(self, *call):
        if self.broken:
            raise DeviceFault(f"expected {call[0]} to succeed, got {self.broken}")
        self.calls.append(call)

    def leaks(self):
        """Name what was made and not freed."""
        kinds = ("pages", "mapped", "reserved", "pinned", "allocated", "streams", "events")
        return [kind for kind in kinds if getattr(self, f"_{kind}")]

    def mapped(self):
        """Say which page lies at which address."""
        return dict(self._mapped)

    def name(self):
        return "Software card"

    def enter(self):
        self._note("enter")

    def close(self):
        self._note("close")

    def free_bytes(self):
        return self._memory_bytes - len(self._pages) * PAGE_BYTES

    def synchronize(self):
        for stream in list(self._streams.values()):
            done = threading.Event()
            stream.put(done.set)
            done.wait()
        self._note("synchronize")

    def create_page(self, size_bytes):
        self._note("create_page")
        if self.free_bytes() < size_bytes:
            raise DeviceFault("expected cuMemCreate to succeed, got CUDA_ERROR_OUT_OF_MEMORY (2)")
        page = next(self._numbers)
        self._pages[page] = os.memfd_create("page")
        os.ftruncate(self._pages[page], size_bytes)
        return page

    def release_page(self, page):
        self._note("release_page", page)
        assert page not in self._mapped.values(), f"page {page} is mapped still"
        os.close(self._pages.pop(page))

    def reserve(self, size_bytes, alignment_bytes):
        self._note("reserve", size_bytes)
        address = address_space.reserve(size_bytes, alignment_bytes=alignment_bytes)
        self._reserved[address] = size_bytes
        return address

    def unreserve(self, address, size_bytes):
        self._note("unreserve", address)
        assert self._reserved.pop(address) == size_bytes
        inside = range(address, address + size_bytes)
        assert not any(start in inside for start in self._mapped), "pages are mapped there"
        address_space.release(address, size_bytes)

    def map(self, address, size_bytes, page):
        self._note("map", address, page)
        assert address % _GRANULARITY == size_bytes % _GRANULARITY == 0, "granularity"
        assert address not in self._mapped, "something is mapped there"
        _map(address, size_bytes, mmap.MAP_SHARED, self._pages[page])
        self._mapped[address] = page

    def allow_access(self, address, size_bytes):
        self._note("allow_access", address)
        for start in range(address, address + size_bytes, PAGE_BYTES):
            assert start in self._mapped, "nothing is mapped there"
            _libc.mprotect(start, PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE)
            self._accessible.add(start)

    def unmap(self, address, size_bytes):
        self._note("unmap", address)
        del self._mapped[address]
        self._accessible.discard(address)
        _map(address, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)

    def pin(self, address, size_bytes):
        self._note("pin", address)
        self._pinned[address] = size_bytes

    def unpin(self, address):
        self._note("unpin", address)
        del self._pinned[address]

    def host_alloc(self, size_bytes):
        self._note("host_alloc", size_bytes)
        memory = ctypes.create_string_buffer(size_bytes)
        address = ctypes.addressof(memory)
        self._allocated[address] = memory
        return address

    def host_free(self, address):
        self._note("host_free", address)
        del self._allocated[address]

    def device_address(self, host_address):
        return host_address

    def stream(self, *, urgent):
        self._note("stream", urgent)
        number, work = next(self._numbers), queue.SimpleQueue()
        self._streams[number] = work
        threading.Thread(target=self._serve, args=(work,), daemon=True).start()
        return number

    def drop_stream(self, stream):
        self._note("drop_stream", stream)
        work, done = self._streams.pop(stream), threading.Event()
        work.put(done.set)
        work.put(None)
        done.wait()

    def _serve(self, work):
        while call := work.get():
            try:
                call()
            except Exception as problem:
                self.broken = f"CUDA_ERROR_ASSERT (710) by {problem!r}"

    def event(self, *, timing):
        event = next(self._numbers)
        self._events[event] = threading.Event()
        self._events[event].set()
        return event

    def drop_event(self, event):
        self._note("drop_event", event)
        del self._events[event]

    def happen(self, event):
        """Record an event now: what a graph's node does."""
        self._instants[event] = time.perf_counter_ns()
        self._events[event].set()

    def record(self, event, stream):
        self._note("record", event, stream)
        self._events[event].clear()
        self._streams[stream].put(lambda: self.happen(event))

    def record_inside(self, event, stream):
        raise AssertionError("captures are `CpuGraphs`' own")

    def wait(self, event):
        self._note("wait", event)
        self._events[event].wait()
        self._note("waited", event)

    def between_ns(self, first, second):
        return self._instants[second] - self._instants[first]

    def touch(self, address, size_bytes):
        """Break the card unless all of a range in reserved addresses may be accessed."""
        first = address // PAGE_BYTES * PAGE_BYTES
        for start in range(first, address + size_bytes, PAGE_BYTES):
            if start not in self._accessible:
                self.broken = "CUDA_ERROR_ILLEGAL_ADDRESS (700)"
                return False
        return True

    def copy_in(self, target, source, size_bytes, stream):
        self._note("copy_in", target, size_bytes, stream)
        assert any(
            start <= source and source + size_bytes <= start + size
            for start, size in (*self._pinned.items(), *self._allocated_sizes())
        ), "the source is not pinned"

        def copy():
            if self.plain.get(target, 0) >= size_bytes or self.touch(target, size_bytes):
                if self._copy_bytes_per_second:
                    time.sleep(size_bytes / self._copy_bytes_per_second)
                ctypes.memmove(target, source, size_bytes)

        self._streams[stream].put(copy)

    def _allocated_sizes(self):
        return [(address, len(memory)) for address, memory in self._allocated.items()]

    def copy_out(self, target, source, size_bytes, stream):
        self._note("copy_out", size_bytes, stream)
        self._streams[stream].put(lambda: ctypes.memmove(target, source, size_bytes))

    def fill_zeros(self, address, size_bytes, stream):
        self._note("fill_zeros", address)
        self._streams[stream].put(lambda: ctypes.memset(address, 0, size_bytes))

    def upload(self, graph, stream):
        self._note("upload", graph)

    def launch(self, graph, stream):
        self._note("launch", graph, stream)
        self._streams[stream].put(self.graphs[graph])


class CpuGraphs:
    """Implements `cw.devices.cuda.graphs.GraphMaker`: a graph runs its program on the CPU."""

    def __init__(self, driver, settings):
        self._driver = driver
        self._by_copy = settings.inputs_by == "copy"
        self._numbers = itertools.count(1)

    def load(self, checked, model):
        return torch.export.load(io.BytesIO(checked.data)).graph_module, checked.signature

    def capture(self, program, model, layout, address, buffers, stream):
        module, signature = program
        weights = [_weight(layout.tensors[item.name], address) for item in signature.weights]
        graphs = {}
        for batch_size in sorted(model.batch_sizes, reverse=True):
            first, last = (self._driver.event(timing=True) for _ in range(2))
            inputs = [
                _at(source, spec.datatype.value, (batch_size, *spec.shape))
                for source, spec in zip(buffers.inputs, model.inputs, strict=True)
            ]
            if self._by_copy:
                inputs = [torch.zeros_like(source) for source in inputs]
                self._driver.plain |= {own.data_ptr(): own.nbytes for own in inputs}
            with torch.no_grad():
                outputs = [torch.empty_like(found) for found in module(*weights, *inputs)]
            if [out.nbytes for out in outputs] != [
                spec.size_bytes * batch_size for spec in model.outputs
            ]:
                raise ArchiveInvalid(f"program of {model.name}: expected other outputs")

            def replay(first=first, last=last, inputs=inputs, outputs=outputs):
                self._driver.happen(first)
                if self._driver.touch(address, layout.image_bytes):
                    with torch.no_grad():
                        for own, found in zip(outputs, module(*weights, *inputs), strict=True):
                            own.copy_(found)
                self._driver.happen(last)

            number = next(self._numbers)
            self._driver.graphs[number] = replay
            graphs[batch_size] = CapturedGraph(
                executable=number,
                inputs=tuple(own.data_ptr() for own in inputs) if self._by_copy else (),
                outputs=tuple(out.data_ptr() for out in outputs),
                first=first,
                last=last,
                keeps=outputs,
            )
        return graphs

    def drop(self, graph):
        self._driver.drop_event(graph.first)
        self._driver.drop_event(graph.last)
        del self._driver.graphs[graph.executable]

    def close(self):
        assert not self._driver.graphs, "graphs were forgotten"


def _map(address, size_bytes, flags, file):
    got = _libc.mmap(address, size_bytes, 0, flags | _MAP_FIXED,
                     file, 0)  # fmt: skip
    assert got == address, os.strerror(ctypes.get_errno())


def _weight(place, address):
    return _at(address + place.offset_bytes, place.datatype, place.shape)


def _at(address, datatype, shape):
    dtype = TORCH_DTYPES[datatype]
    size = max(1, math.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(shape)
