"""Whether there is an NVIDIA GPU: asked of the driver alone, in milliseconds.

Nothing but the standard library is imported, so that the answer needs no environment.
"""

import ctypes
from typing import Final

_LIBRARY: Final = "libcuda.so.1"


def why_no_gpu(library: str = _LIBRARY) -> str:
    """Say in one sentence what was looked for and what was found instead; empty with a GPU.

    Args:
        library: The driver's, as the loader finds it.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"No NVIDIA GPU: looked for the driver's library {library}, which is not here."
    status = driver.cuInit(0)
    if status != 0:
        return (
            f"No NVIDIA GPU: the driver's library {library} is here, but cuInit answers "
            f"{_name_of(driver, status)}."
        )
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return (
            f"No NVIDIA GPU: the driver is here, but shows {count.value} devices "
            f"({_name_of(driver, status)}; is CUDA_VISIBLE_DEVICES set to none?)."
        )
    return ""


def _name_of(driver: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    if driver.cuGetErrorName(status, ctypes.byref(text)) == 0 and text.value:
        return text.value.decode()
    return f"error {status}"
