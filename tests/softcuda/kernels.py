"""Kernels of the software driver: functions of the host that say which memory they use."""

import ctypes

from tests.softcuda.card import loaded_library

LAUNCH_FAILED = 719
"""What a kernel returns to break the card; 0: all went well."""

Kernel = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
"""Runs on the stream's own thread, and has to live until it has run."""


class _Range(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("writes", ctypes.c_int),
    )


def launch_kernel(stream, kernel, ranges):
    """Send a kernel to a stream, or to the graph that the stream is captured into.

    Args:
        stream: As the driver calls it.
        kernel: A `Kernel`.
        ranges: (address, bytes, whether it writes) of all that it uses.
    """
    array = (_Range * max(1, len(ranges)))(*[_Range(*it) for it in ranges])
    function = ctypes.cast(kernel, ctypes.c_void_p)
    launch = loaded_library().soft_launch_kernel
    status = launch(stream, function, None, ctypes.addressof(array), len(ranges))
    assert status == 0, f"soft_launch_kernel answers {status}"
