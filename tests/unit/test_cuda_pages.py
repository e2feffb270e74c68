"""Pages and addresses of the cuda device: whatever the order, no page lies where it may not."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cw.devices.cuda.pages import PagePool, PageRange
from cw.units import PAGE_BYTES
from tests.actor.soft_cuda import SoftDriver

PAGES = 4
SIZES = (1, 2, 3)


@settings(max_examples=40, deadline=None)
@given(
    loads=st.lists(
        st.tuples(st.integers(0, len(SIZES) - 1), st.permutations(range(PAGES))), max_size=12
    )
)
def test_no_order_of_loads_maps_a_page_twice_or_before_its_fence(loads):
    """Two models that share a page compute with each other's weights."""
    driver = SoftDriver()
    pool = PagePool(driver, PAGES)
    ranges = [PageRange(pool, size) for size in SIZES]
    for index, own in enumerate(ranges):
        own.fence = driver.event(timing=False)
        assert own.address % PAGE_BYTES == 0, index
    lies = {}
    for model, order in loads:
        driver.calls.clear()
        pages = order[: SIZES[model]]
        ranges[model].map(pages)
        for position, call in enumerate(driver.calls):
            if call[0] == "unmap":
                owner = next(
                    own
                    for own, size in zip(ranges, SIZES, strict=True)
                    if own.address <= call[1] < own.address + size * PAGE_BYTES
                )
                assert ("waited", owner.fence) in driver.calls[:position]
        lies = {address: page for address, page in lies.items() if page not in pages}
        for place, page in enumerate(pages):
            lies[ranges[model].address + place * PAGE_BYTES] = page
        handles = {address: pool.handle_of(page) for address, page in lies.items()}
        assert driver.mapped() == handles
        assert driver.touch(ranges[model].address, SIZES[model] * PAGE_BYTES)
    for own in ranges:
        own.release()
        driver.drop_event(own.fence)
    pool.close()

    assert driver.leaks() == []
