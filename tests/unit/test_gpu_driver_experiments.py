"""Experiments that ask the driver alone, on a stand-in that keeps its rules about pages."""

import ctypes
import itertools

import pytest

from cw.devices.cuda import driver as shipped
from cw.devices.cuda.experiments import h2d, rig, small_copy, vmm_cost
from cw.devices.cuda.experiments.figures import Figures, Outcome
from cw.devices.cuda.experiments.rig import DriverRefused, Rig
from cw.errors import DeviceFault
from cw.units import MiB

OK, INVALID = 0, 1


class StandIn:
    """As much of `cuda.bindings.driver` as a rig calls; copies go nowhere, and take no time.

    Source of the rules: the CUDA driver API, "Virtual Memory Management": a mapping needs addresses
    that are reserved and free; an access is refused before `cuMemSetAccess`; a page that is mapped
    stays in use.
    """

    def __init__(self):
        self.next = itertools.count(1)
        self.pages, self.ranges, self.mapped, self.open = set(), {}, {}, set()
        self.plain, self.host, self.copied_bytes = {}, {}, 0

    def __getattr__(self, name):
        if name.startswith("CU"):  # enumerations and structures: only passed on
            return _Anything()
        if name.startswith("cu"):  # contexts, streams, events: nothing to go wrong here
            called = lambda *_: (OK, next(self.next))  # noqa: E731
            called.__name__ = name
            return called
        raise AttributeError(name)

    CUmemLocationType = CUmemAllocationType = CUmemAccess_flags = property(lambda _: _Anything())

    def cuCtxGetStreamPriorityRange(self):  # noqa: N802
        return OK, 0, -5

    def cuMemCreate(self, size, properties, flags):  # noqa: N802
        page = next(self.next)
        self.pages.add(page)
        return OK, page

    def cuMemRelease(self, page):  # noqa: N802
        if page not in self.pages or page in self.mapped.values():
            return (INVALID,)
        self.pages.remove(page)
        return (OK,)

    def cuMemAddressReserve(self, size, alignment, address, flags):  # noqa: N802
        found = (1 << 40) * next(self.next)
        self.ranges[found] = size
        return OK, found

    def cuMemAddressFree(self, address, size):  # noqa: N802
        known = self.ranges.pop(address, None) == size
        return (OK if known and not self._mapped_in(address, size) else INVALID,)

    def cuMemMap(self, address, size, offset, page, flags):  # noqa: N802
        reserved = any(at <= address < at + length for at, length in self.ranges.items())
        if not reserved or address in self.mapped or page not in self.pages:
            return (INVALID,)
        self.mapped[address] = page
        return (OK,)

    def cuMemSetAccess(self, address, size, descriptions, count):  # noqa: N802
        inside = self._mapped_in(address, size)
        self.open.update(inside)
        return (OK if inside else INVALID,)

    def cuMemUnmap(self, address, size):  # noqa: N802
        inside = self._mapped_in(address, size)
        for at in inside:
            del self.mapped[at]
            self.open.discard(at)
        return (OK if inside else INVALID,)

    def cuMemAlloc(self, size):  # noqa: N802
        address = (1 << 40) * next(self.next)
        self.plain[address] = size
        return OK, address

    def cuMemHostAlloc(self, size, flags):  # noqa: N802
        buffer = ctypes.create_string_buffer(size)
        address = ctypes.addressof(buffer)
        self.host[address] = buffer
        return OK, address

    def cuMemcpyHtoDAsync(self, target, source, size, stream):  # noqa: N802
        self.copied_bytes += size
        return (OK if self._can_access(target, size) else INVALID,)

    def cuMemcpyDtoHAsync(self, target, source, size, stream):  # noqa: N802
        return (OK if self._can_access(source, size) else INVALID,)

    def _mapped_in(self, address, size):
        return [at for at in self.mapped if address <= at < address + size]

    def _can_access(self, address, size):
        if any(
            at <= address and address + size <= at + length for at, length in self.plain.items()
        ):
            return True
        return any(at <= address for at in self.open)


class _Anything:
    def __call__(self, *_):
        return _Anything()

    def __getattr__(self, name):
        value = self.__dict__[name] = _Anything()
        return value


@pytest.fixture
def driver(monkeypatch):
    driver = StandIn()
    for user in (rig, shipped):
        monkeypatch.setattr(user, "import_module", lambda name: driver)
    return driver


def test_page_costs_are_measured_and_judged(driver):
    """What is measured must be what the verdict asks for, and all pages must be given back."""
    found = vmm_cost.run(Rig(with_torch=False))

    assert vmm_cost.verdict(Figures(found)).outcome in (Outcome.PASS, Outcome.FALLBACK)
    assert Figures(found).holds("one unmap takes many pages")
    assert not driver.mapped
    assert not driver.pages
    assert not driver.ranges


def test_copy_rates_are_measured_and_judged(driver, monkeypatch):
    """Each way copies the same number of bytes, or their rates could not be compared."""
    monkeypatch.setattr(h2d, "_TOTAL_BYTES", 64 * MiB)
    found = h2d.run(Rig(with_torch=False))

    assert h2d.verdict(Figures(found)).words
    ways = [figure for figure in found if figure.unit == "GB/s"]
    assert driver.copied_bytes == len(ways) * 3 * 64 * MiB


def test_waits_of_small_copies_are_measured_and_judged(driver):
    """The kernel's part needs torch; the copies' names must be those of the verdict."""
    found = {figure.name: figure.value for figure in small_copy.run_copies(Rig(with_torch=False))}

    assert {"input behind nothing", "output behind 2 x 16 MiB"} <= set(found)
    missing = {f"input behind 2 x {size} MiB" for size in (2, 4, 16)} - set(found)
    assert not missing


def test_a_refusal_names_the_call(driver):
    """A status alone does not say which of a thousand calls was refused."""
    with pytest.raises(DeviceFault, match="cuMemUnmap"):
        Rig(with_torch=False).reserve(1).unmap()


def test_what_runs_beside_is_stopped_and_its_error_told(driver):
    """A LOAD that failed in the background would make the figures beside it look good."""

    def step(index):
        if index == 3:
            raise DriverRefused("the fourth copy")

    with pytest.raises(DriverRefused, match="fourth"):
        with Rig(with_torch=False).beside(step) as beside:
            while beside.count < 3:
                pass
