"""Pages and addresses of the cuda device: whatever the order, no page lies where it may not."""

import ctypes

from hypothesis import given, settings
from hypothesis import strategies as st

from cw.devices.cuda.driver import CudaDriver
from cw.devices.cuda.pages import PagePool, PageRange
from cw.units import MS, PAGE_BYTES
from tests.softcuda.card import SoftCard, needs_card
from tests.softcuda.kernels import Kernel, launch_kernel

pytestmark = needs_card

PAGES = 4
SIZES = (1, 2, 3)


@settings(max_examples=40)
@given(
    loads=st.lists(
        st.tuples(st.integers(0, len(SIZES) - 1), st.permutations(range(PAGES))), max_size=12
    )
)
def test_no_order_of_loads_maps_a_page_twice_or_before_its_fence(loads):
    """Two models that share a page compute with each other's weights.

    Each model's work is sent and not waited for: a page taken from under it breaks the card.
    """
    card = SoftCard()
    driver = CudaDriver()
    pool, stream = PagePool(driver, PAGES), driver.stream(urgent=True)
    ranges = [PageRange(pool, size) for size in SIZES]
    nothing = Kernel(lambda _: sleep_a_little())
    for own in ranges:
        own.fence = driver.event(timing=False)
        assert own.address % PAGE_BYTES == 0
    lies = {}
    for model, order in loads:
        own, pages = ranges[model], order[: SIZES[model]]
        own.map(pages)
        size_bytes = SIZES[model] * PAGE_BYTES
        launch_kernel(stream, nothing, [(own.address, size_bytes, 0)])
        driver.record(own.fence, stream)
        lies = {address: page for address, page in lies.items() if page not in pages}
        for place, page in enumerate(pages):
            lies[own.address + place * PAGE_BYTES] = page
        assert card.mapped() == {address: pool.handle_of(page) for address, page in lies.items()}
    for own in ranges:
        own.release()
        driver.drop_event(own.fence)
    driver.drop_stream(stream)
    pool.close()

    assert card.hazards == []
    assert card.leaks() == []


def sleep_a_little():
    ctypes.CDLL(None).usleep(MS // 1000)
    return 0


def test_what_a_page_holds_goes_with_it():
    """A LOAD's copy may be followed at another address; what was there before must be gone."""
    SoftCard()
    driver = CudaDriver()
    pool = PagePool(driver, PAGES)
    one, other = PageRange(pool, 1), PageRange(pool, 1)
    one.map([2])
    ctypes.memset(one.address, 7, 16)
    other.map([2])

    assert ctypes.string_at(other.address, 16) == bytes([7]) * 16
