"""The system calls that move memory between addresses: mmap, mremap and their kin, by ctypes.

Python's own `mmap` can neither choose an address nor move a mapping, which is what pages are about.
Addresses are ints. Each call names itself in the OSError that it raises.
"""

import ctypes
import os
from pathlib import Path
from typing import Final

_PROT_NONE: Final = 0
_PROT_READ: Final = 1
_PROT_READ_WRITE: Final = 3
_MAP_SHARED: Final = 0x01
_MAP_PRIVATE: Final = 0x02
_MAP_FIXED: Final = 0x10
_MAP_ANONYMOUS: Final = 0x20
_MAP_NORESERVE: Final = 0x4000
_MAP_POPULATE: Final = 0x8000
_MREMAP_MAYMOVE: Final = 1
_MREMAP_FIXED: Final = 2
_MREMAP_DONTUNMAP: Final = 4
_MADV_HUGEPAGE: Final = 14

_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def reserve(size_bytes: int, *, alignment_bytes: int) -> int:
    """Take a range of addresses out of use, for good: no memory behind it, an access is a fault.

    Returns:
        The range's address, a multiple of `alignment_bytes`.

    Raises:
        OSError: The address space is full.
    """
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    found = _mmap(None, size_bytes + alignment_bytes, _PROT_NONE, flags)
    address = -(-found // alignment_bytes) * alignment_bytes
    if head := address - found:
        release(found, head)
    if tail := alignment_bytes - head:
        release(address + size_bytes, tail)
    return address


def release(address: int, size_bytes: int) -> None:
    """Give a range of addresses back, with whatever lies there.

    Raises:
        OSError: No such range.
    """
    if _libc.munmap(address, size_bytes) != 0:
        raise _error("munmap", size_bytes)


def fill_with_memory(address: int, size_bytes: int) -> None:
    """Put memory of zeros into a reserved range, in huge pages where the system allows them.

    The memory is there when this returns: no later access waits for the kernel to find some.

    Raises:
        OSError: The system has no memory to give.
    """
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_FIXED
    _mmap(address, size_bytes, _PROT_READ_WRITE, flags)
    # Refused by a kernel built without huge pages; small ones are slower and as right.
    _libc.madvise(address, size_bytes, _MADV_HUGEPAGE)
    ctypes.memset(address, 0, size_bytes)


def move(source: int, target: int, size_bytes: int) -> None:
    """Move memory from one range of addresses to another, without copying it.

    The kernel moves page table entries (whole tables of them, where both ends are aligned to
    2 MiB). Whatever was at `target` is dropped. `source` stays taken, so that no other thread's
    mapping can slip into it, and may be moved to again.

    Raises:
        OSError: No memory at `source`, or too many mappings (``vm.max_map_count``).
    """
    flags = _MREMAP_MAYMOVE | _MREMAP_FIXED | _MREMAP_DONTUNMAP
    if _libc.mremap(source, size_bytes, size_bytes, flags, target) == _MAP_FAILED:
        raise _error("mremap", size_bytes)


def bar(address: int, size_bytes: int) -> None:
    """Make every access to a range a fault again, and drop what was there.

    Raises:
        OSError: Too many mappings (``vm.max_map_count``).
    """
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
    _mmap(address, size_bytes, _PROT_NONE, flags)


def map_file(path: Path, size_bytes: int) -> int:
    """Map a file read-only and read all of it now, so that no later access waits for the disk.

    Python's `mmap` keeps a file descriptor for each mapping, which would bound the models of an
    executor by its open files; this keeps none.

    Returns:
        The address of the file's first byte; give it back with `release`.

    Raises:
        OSError: The file can't be opened or mapped.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _mmap(None, size_bytes, _PROT_READ, _MAP_SHARED | _MAP_POPULATE, descriptor)
    finally:
        os.close(descriptor)


def copy(target: int, source: int, size_bytes: int) -> None:
    """Copy bytes; other threads run meanwhile, since ctypes lets go of the interpreter's lock."""
    ctypes.memmove(target, source, size_bytes)


def _mmap(
    address: int | None, size_bytes: int, protection: int, flags: int, descriptor: int = -1
) -> int:
    found = _libc.mmap(address, size_bytes, protection, flags, descriptor, 0)
    if found == _MAP_FAILED:
        raise _error("mmap", size_bytes)
    return int(found)


def _error(call: str, size_bytes: int) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call} of {size_bytes} bytes: {os.strerror(code)}")
