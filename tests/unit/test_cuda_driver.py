"""The driver's door, without a card: what is said where there is none, and how errors read."""

import enum
import types

import pytest

from cw.devices.cuda import driver as driver_module
from cw.devices.cuda.driver import CudaDriver
from cw.errors import ConfigError, DeviceFault


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


def test_a_machine_without_a_driver_is_told_so(monkeypatch):
    """The bindings raise an error of their own, from deep inside."""

    def init(_flags):
        raise RuntimeError("Failure finding libcuda.so.1")

    module = types.SimpleNamespace(cuInit=init)
    monkeypatch.setattr(driver_module, "import_module", lambda _: module)
    with pytest.raises(ConfigError, match=r"driver 580.*libcuda"):
        CudaDriver()


def test_a_missing_package_is_a_setting_to_mend(monkeypatch):
    """Never an import error: the module is imported on machines without CUDA."""

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(driver_module, "import_module", missing)
    with pytest.raises(ConfigError, match="extra `cuda`"):
        CudaDriver()


def test_no_card_is_a_setting_to_mend(monkeypatch):
    """A driver without a card answers, with a status."""

    def cuInit(_flags):  # noqa: N802 - the driver's name
        return (Status.CUDA_ERROR_NO_DEVICE,)

    monkeypatch.setattr(
        driver_module, "import_module", lambda _: types.SimpleNamespace(cuInit=cuInit)
    )
    with pytest.raises(ConfigError, match=r"cuInit to succeed, got CUDA_ERROR_NO_DEVICE \(100\)"):
        CudaDriver()


def test_an_error_names_the_call_and_what_to_do():
    """It ends the process: its text is all that is left."""

    def cuEventSynchronize(_event):  # noqa: N802 - the driver's name
        return (Status.CUDA_ERROR_ILLEGAL_ADDRESS,)

    driver = object.__new__(CudaDriver)
    with pytest.raises(DeviceFault, match=r"cuEventSynchronize .*ILLEGAL_ADDRESS \(700\).*restart"):
        driver._call(cuEventSynchronize, 1)
