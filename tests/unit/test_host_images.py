"""HostImages: a bounded region, no two images in one place, nothing lost to fragments."""

import ctypes
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.devices.host_images import GRANULE_BYTES, HostImages
from cw.errors import HostMemoryFull

CAPACITY = 16


@pytest.fixture
def images():
    images = HostImages(CAPACITY * GRANULE_BYTES)
    yield images
    images.close()


def test_what_is_written_stays(images):
    """A LOAD copies from here, long after the PREPARE."""
    first, second = images.hold(1, 10), images.hold(2, GRANULE_BYTES + 1)
    ctypes.memset(first, 1, GRANULE_BYTES)
    ctypes.memset(second, 2, 2 * GRANULE_BYTES)
    images.drop(1)

    assert images.address_of(2) == second
    assert ctypes.string_at(second, 2 * GRANULE_BYTES) == b"\2" * 2 * GRANULE_BYTES


def test_a_full_region_says_what_to_do(images):
    """The operator reads it in the refusal of a model."""
    images.hold(1, CAPACITY * GRANULE_BYTES)
    with pytest.raises(
        HostMemoryFull, match=r"got 0 B at most, of 1.0 MiB: raise \[executor\] host"
    ):
        images.hold(2, 1)
    images.drop(1)

    assert images.hold(2, 1)


def test_pinned_memory_is_pinned_once_at_the_start():
    """Pinning stops a GPU's copies: not beside the first request."""
    pinned = []
    images = HostImages(CAPACITY * GRANULE_BYTES, pin=lambda *region: pinned.append(region))
    address = images.hold(1, 1)
    images.drop(1)
    images.close()

    assert pinned == [(address, CAPACITY * GRANULE_BYTES)]


@given(
    st.lists(
        st.one_of(
            st.integers(1, CAPACITY).map(lambda size: ("hold", size)),
            st.integers(0, 20).map(lambda index: ("drop", index)),
        ),
        max_size=40,
    )
)
def test_extents_never_overlap_and_all_come_back(steps):
    """One image in another's place would be a wrong answer; a lost extent, a leak."""
    images, held, number = HostImages(CAPACITY * GRANULE_BYTES), {}, 0
    for step, value in steps:
        if step == "hold":
            number += 1
            try:
                held[number] = (images.hold(number, value * GRANULE_BYTES), value)
            except HostMemoryFull:
                continue
        elif held:
            victim = sorted(held)[value % len(held)]
            images.drop(victim)
            del held[victim]
        taken = sorted((address, address + size * GRANULE_BYTES) for address, size in held.values())
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(taken))
        assert images.held_bytes == sum(size for _, size in held.values()) * GRANULE_BYTES
    for victim in list(held):
        images.drop(victim)
    whole = images.hold(0, CAPACITY * GRANULE_BYTES)

    assert whole
    images.close()
