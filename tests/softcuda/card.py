"""A card in software: builds the driver, loads it under `cuda.bindings`, and looks into it."""

import atexit
import contextlib
import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import attrs
import pytest

SOURCES = Path(__file__).parent / "src"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-pthread")
LIBRARY = "libcuda.so.1"
ILLEGAL_ADDRESS = 700
KINDS = (
    "pages",
    "mapped",
    "reserved",
    "pinned",
    "host",
    "plain",
    "streams",
    "events",
    "graphs",
    "executables",
)


def _compiler():
    return shutil.which("gcc") or shutil.which("cc")


def _loaded_already():
    """Return the CUDA driver that the loader finds: a real one, or by `environment_with_card`."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def why_no_card():
    """Say why the software driver can't be had here, or return the empty string."""
    if (library := _loaded_already()) is not None:
        return "" if hasattr(library, "soft_reset") else "a real CUDA driver is in its place"
    return "" if _compiler() else "no C compiler (gcc or cc) to build the software driver with"


needs_card = pytest.mark.skipif(bool(why_no_card()), reason=why_no_card())
"""Marks tests that use a `SoftCard`."""


@functools.cache
def library_path():
    """Build the driver, once per process."""
    folder = Path(tempfile.mkdtemp(prefix="cw-softcuda-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / LIBRARY
    shared = ("-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", path)
    subprocess.run([_compiler(), *FLAGS, *shared, *sorted(SOURCES.glob("*.c")), "-ldl"], check=True)
    return path


@functools.cache
def loaded_library():
    """Load it in front of `cuda.bindings`, which takes the library of that name that it finds."""
    library = _loaded_already() or ctypes.CDLL(str(library_path()), mode=ctypes.RTLD_GLOBAL)
    library.soft_count.restype = ctypes.c_int64
    library.soft_log_line.restype = library.soft_hazard_text.restype = ctypes.c_char_p
    library.soft_log_line.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_uint64))
    library.soft_set_memory_bytes.argtypes = (ctypes.c_uint64,)
    library.soft_set_copy_time.argtypes = (ctypes.c_uint64, ctypes.c_uint64)
    library.soft_launch_kernel.argtypes = (
        ctypes.c_uint64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int,
    )
    return library


@attrs.frozen
class Call:
    """One call of the driver's, with its first four arguments as numbers."""

    name: str
    arguments: tuple


class SoftCard:
    """The one card of this process, as new.

    Args:
        memory_bytes: Of the card; None: 64 GiB.
        copy_bytes_per_second: At which copies go; None: as fast as they can.
        copy_delay_ns: For which each copy takes longer.
    """

    def __init__(self, *, memory_bytes=None, copy_bytes_per_second=None, copy_delay_ns=0):
        self.library = loaded_library()
        self.library.soft_reset()
        if memory_bytes is not None:
            self.library.soft_set_memory_bytes(memory_bytes)
        self.set_copy_time(copy_bytes_per_second, copy_delay_ns)

    def set_copy_time(self, bytes_per_second=None, delay_ns=0):
        self.library.soft_set_copy_time(int(bytes_per_second or 0), delay_ns)

    def counts(self):
        """Count what lives."""
        return {kind: self.library.soft_count(index) for index, kind in enumerate(KINDS)}

    def leaks(self):
        """Name what was made and not freed."""
        return [kind for kind, count in self.counts().items() if count]

    def calls(self, *names):
        """List the calls so far, those of the names or all."""
        found, arguments = [], (ctypes.c_uint64 * 4)()
        for index in range(self.library.soft_log_count()):
            name = self.library.soft_log_line(index, arguments).decode()
            if not names or name in names:
                found.append(Call(name, tuple(arguments)))
        return found

    def mapped(self):
        """Say which page lies at which address, by the calls so far."""
        lies = {}
        for call in self.calls("cuMemMap", "cuMemUnmap"):
            address, _size, *page = call.arguments
            if call.name == "cuMemMap":
                lies[address] = page[0]
            else:
                del lies[address]
        return lies

    def forget_calls(self):
        self.library.soft_log_clear()

    @property
    def hazards(self):
        """What was done in an order that was not safe, whatever came of it."""
        count = self.library.soft_hazard_count()
        return [self.library.soft_hazard_text(index).decode() for index in range(count)]

    def fail(self, name, status, *, after=0):
        """Have the next call of a function, or a later one, answer with a status."""
        assert self.library.soft_fail(name.encode(), after, status)

    def break_down(self, status=ILLEGAL_ADDRESS):
        """Fail for good, as after a fault in a kernel."""
        self.library.soft_break_card(status)

    @contextlib.contextmanager
    def stalled(self):
        """Take work, and do none of it meanwhile."""
        self.library.soft_stall(1)
        try:
            yield
        finally:
            self.library.soft_stall(0)


def environment_with_card(**changed):
    """Say what another process needs to find the software driver as the machine's own."""
    return {"LD_LIBRARY_PATH": str(library_path().parent), **changed}
