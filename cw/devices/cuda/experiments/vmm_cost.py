"""What one page costs to create, map, open to access, unmap and give back."""

from functools import partial
from typing import Any, Final

from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    elapsed_ns,
    fall_back,
    passed,
    quantile,
)
from cw.devices.cuda.experiments.rig import DriverRefused, Rig
from cw.units import PAGE_BYTES, US, MiB

_PAGE_SIZES_BYTES: Final = (2 * MiB, PAGE_BYTES, 64 * MiB)
_RANGE_BYTES: Final = 256 * MiB
_ROUNDS: Final = 3
_MODEL_PAGES: Final = 4
"""A ResNet-50 in half precision: 51 MB."""
_EDIT_US_MAX: Final = 500.0
"""Half of the time that copying those pages takes at 50 GB/s."""


def run(rig: Rig) -> list[Measurement]:
    """Time each call per page size, host time; the last of several rounds counts."""
    found = []
    for page_bytes in _PAGE_SIZES_BYTES:
        rounds = [_one_round(rig, page_bytes) for _ in range(_ROUNDS)]
        found += [
            Measurement(name=f"{step}, {page_bytes // MiB} MiB", value=ns / US, unit="us")
            for step, ns in rounds[-1].items()
        ]
    found.append(_one_unmap_for_all(rig))
    return found


def _one_round(rig: Rig, page_bytes: int) -> dict[str, int]:
    count = _RANGE_BYTES // page_bytes
    space = rig.reserve(count, page_bytes)
    pages: list[Any] = []
    create_ns = [elapsed_ns(lambda: pages.extend(rig.pages(1, page_bytes))) for _ in range(count)]
    map_ns = [elapsed_ns(partial(space.map_one, at, page)) for at, page in enumerate(pages)]
    access_ns = elapsed_ns(partial(rig.allow_access, space.address, space.size_bytes))
    unmap_ns = [elapsed_ns(partial(space.unmap_one, at)) for at in range(count)]
    release_ns = [elapsed_ns(partial(rig.drop_pages, [page])) for page in pages]
    space.free()
    return {
        "create": quantile(create_ns, 0.5),
        "map": quantile(map_ns, 0.5),
        "access per page": access_ns // count,
        "unmap": quantile(unmap_ns, 0.5),
        "release": quantile(release_ns, 0.5),
    }


def _one_unmap_for_all(rig: Rig) -> Measurement:
    """Find out whether one call may take a whole range's pages away."""
    space, pages = rig.reserve(_MODEL_PAGES), rig.pages(_MODEL_PAGES)
    space.map(pages)
    try:
        rig.call(rig.driver.cuMemUnmap, space.address, space.size_bytes)
        allowed = True
    except DriverRefused:
        allowed = False
        space.unmap()
    rig.drop_pages(pages)
    space.free()
    return answer("one unmap takes many pages", allowed)


def verdict(figures: Figures) -> Verdict:
    """Judge the edit of one model's pages against the copy that follows it."""
    edit_us = _MODEL_PAGES * (
        figures["map, 16 MiB"] + figures["access per page, 16 MiB"] + figures["unmap, 16 MiB"]
    )
    words = f"mapping and unmapping {_MODEL_PAGES} pages of 16 MiB takes {edit_us:.0f} us"
    if edit_us > _EDIT_US_MAX:
        return fall_back(f"{words}, more than {_EDIT_US_MAX:.0f}: fixed slots, or larger pages")
    return passed(f"{words} (at most {_EDIT_US_MAX:.0f})")


EXPERIMENT: Final = Experiment(
    name="vmm_cost",
    question="What does it cost to move a page?",
    rule=f"Pages of 16 MiB if {_MODEL_PAGES} are mapped and unmapped in {_EDIT_US_MAX:.0f} us.",
    run=run,
    verdict=verdict,
    needs_torch=False,
)
