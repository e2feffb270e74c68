"""Which card and which versions a table was measured with."""

import datetime
import importlib.metadata
import platform
from typing import Final

from cw.devices.cuda.experiments.rig import Rig
from cw.units import MiB

_PACKAGES: Final = ("torch", "cuda-python", "cuda-bindings")
_NAME_BYTES: Final = 96


def describe(rig: Rig) -> dict[str, str]:
    """Name the card, its memory, the driver's CUDA version, the packages and the day (UTC)."""
    name = rig.call(rig.driver.cuDeviceGetName, _NAME_BYTES, rig.device)
    version = int(rig.call(rig.driver.cuDriverGetVersion))
    total = int(rig.call(rig.driver.cuDeviceTotalMem, rig.device))
    return {
        "card": bytes(name).split(b"\0")[0].decode(),
        "memory": f"{total // MiB} MiB",
        "driver": f"CUDA {version // 1000}.{version % 1000 // 10}",
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
