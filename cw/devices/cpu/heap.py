"""Keeps the heap's largest blocks for reuse: activations come back at every INFER.

glibc maps a block of over 32 MiB afresh at each allocation, whatever its thresholds, and every run
pays its page faults again. A thread's own arena holds none of over 64 MiB, so there is one arena.
EfficientNet-Lite0 in batches of 8 and 16 took 190 and 375 ms, and 116 and 198 ms with this.
"""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # Names and values from glibc's malloc.h.
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8

_TRIM_THRESHOLD_BYTES: Final = (1 << 31) - 1


def keep_large_blocks() -> bool:
    """Have this process serve all blocks from one heap, and keep what was freed.

    Called before the device's thread starts, which would get an arena of its own.

    What the largest batch took stays taken. The heap grows over its first few runs, as fragments
    settle, and then no more.

    Returns:
        True where glibc took the settings; False on another C library, where nothing changes.

    Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES))
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)
