"""The CPU device's pages: real memory, really moved."""

import ctypes
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cw.devices import address_space
from cw.devices.cpu.pages import PageMemory
from cw.errors import ConfigError
from cw.units import PAGE_BYTES


@pytest.fixture
def memory():
    memory = PageMemory(4)
    yield memory
    memory.close()


def stamp(page_range, byte, index=0):
    """Fill one page of a range, seen through the model's own addresses."""
    ctypes.memset(page_range.address + index * PAGE_BYTES, byte, PAGE_BYTES)


def peek(page_range, offset):
    return ctypes.string_at(page_range.address + offset, 1)[0]


def test_models_side_by_side_see_only_their_own_pages(memory):
    """Weights of one model in another's tensors would be wrong answers that look right."""
    first, second = memory.reserve(2), memory.reserve(2)
    first.map([3, 0])
    second.map([1, 2])
    for page_range, byte in ((first, 0xAA), (second, 0xBB)):
        stamp(page_range, byte, 0)
        stamp(page_range, byte, 1)

    for page_range, byte in ((first, 0xAA), (second, 0xBB)):
        edges = (0, PAGE_BYTES - 1, PAGE_BYTES, 2 * PAGE_BYTES - 1)
        assert [peek(page_range, offset) for offset in edges] == [byte] * 4
        page_range.unmap()
        page_range.release()


def test_pages_go_home_with_what_is_in_them(memory):
    """A page is one piece of memory wherever it lies: none is lost or found anew by a move."""
    page_range = memory.reserve(1)
    for page in range(memory.pages_total):
        page_range.map([page])
        stamp(page_range, page + 1)
        page_range.unmap()

    heads = [ctypes.string_at(memory.home_of(page), 1)[0] for page in range(4)]
    assert heads == [1, 2, 3, 4]
    page_range.release()


def test_a_range_keeps_its_address_over_many_loads(memory):
    """Tensors are bound once; a range that moved would leave them looking at something else."""
    page_range = memory.reserve(2)
    address = page_range.address
    for turn in range(50):
        pages = [turn % 4, (turn + 1) % 4]
        page_range.map(pages)
        assert page_range.mapped == tuple(pages)
        stamp(page_range, turn)
        assert peek(page_range, 0) == turn
        page_range.unmap()

    assert page_range.address == address
    assert page_range.mapped == ()
    page_range.release()


def test_moving_pages_takes_no_memory(memory):
    """A pool that grew as models came and went would end in the kernel's killing the executor."""
    page_range = memory.reserve(4)
    page_range.map([0, 1, 2, 3])
    page_range.unmap()
    before = resident_bytes()
    for _ in range(20):
        page_range.map([3, 1, 0, 2])
        page_range.unmap()

    assert resident_bytes() - before < PAGE_BYTES
    page_range.release()


def test_closing_gives_the_memory_back():
    """A process that reopens its device must not need twice the memory."""
    before = resident_bytes()
    memory = PageMemory(4)
    opened = resident_bytes()
    memory.close()
    memory.close()

    assert opened - before > 3 * PAGE_BYTES
    assert opened - resident_bytes() > 3 * PAGE_BYTES


@pytest.mark.parametrize("when", ["before a load", "after an unload"])
def test_access_without_pages_is_a_fault(when):
    """An INFER of a model that is not resident must die, not compute with a stranger's weights."""
    script = """
        import ctypes, sys
        from cw.devices.cpu.pages import PageMemory
        memory = PageMemory(1)
        page_range = memory.reserve(1)
        if sys.argv[1] == "after an unload":
            page_range.map([0])
            ctypes.string_at(page_range.address, 1)
            page_range.unmap()
        print("reached", flush=True)
        ctypes.string_at(page_range.address, 1)
        print("survived", flush=True)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), when],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ran.returncode == -11, ran.stderr
    assert ran.stdout.split() == ["reached"]


def test_a_load_is_measured(memory):
    """The scheduler plans the first LOADs by this rate; 0 would be a division by zero."""
    assert memory.measure_load() > 0


def test_more_pages_than_memory_is_refused_with_what_to_change():
    """Better than being killed by the kernel, with no word, when the last page is touched."""
    with pytest.raises(ConfigError, match=r"lower \[executor\] gpu_memory"):
        PageMemory(1 << 24)


def test_a_mapped_file_needs_no_descriptor(tmp_path):
    """Thousands of images are mapped at a time, and a process may open about a thousand files."""
    path = tmp_path / "image"
    path.write_bytes(b"abc" * 4096)
    before = open_files()
    address = address_space.map_file(path, 3 * 4096)

    assert open_files() == before
    assert ctypes.string_at(address + 3, 3) == b"abc"
    address_space.release(address, 3 * 4096)


def test_errors_name_the_call():
    """`mmap` fails for many reasons; an operator must see which call, and why."""
    with pytest.raises(OSError, match=r"mmap of 1152921504606846976 bytes: Cannot allocate memory"):
        address_space.reserve((1 << 60) - PAGE_BYTES, alignment_bytes=PAGE_BYTES)


def resident_bytes():
    fields = Path("/proc/self/statm").read_text("ascii").split()
    return int(fields[1]) * 4096


def open_files():
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def test_the_heap_keeps_large_blocks():
    """Activations of over 32 MiB would be paged in again at every INFER: 1.6 times its duration."""
    script = """
        import resource, torch
        from cw.devices.cpu.heap import keep_large_blocks
        assert keep_large_blocks()
        def touch():
            torch.ones(40 << 20, dtype=torch.uint8)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        warm = [touch() for _ in range(50)]  # the heap finds its shape in the first few
        print(max(touch() for _ in range(20)) - warm[-1])
    """
    faults = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(script)], text=True, timeout=100
    )

    assert int(faults) < 1000
