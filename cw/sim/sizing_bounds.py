"""Arithmetic before simulation: how many GPUs it takes at the very least, and what can't be had.

Both bounds hold for any scheduler, so that the search need not look below them.

- *Compute*: the clairvoyant bound of `bound.py` on the stretch's requests, at ascending numbers of
  GPUs, until it reaches the target.
- *Memory and PCIe*: whatever is served in the stretch was resident when it began or was loaded in
  it, so ``n * (pages + what a link loads in the stretch)`` is no less than the weights of the
  models served. A target below 100 % lets models go unserved: those with the most pages to a
  request are left out, until they are as many requests as the target allows.

The number at which all models asked for are resident at once is told, too. It is no bound: with
fewer, models are swapped.

It must not know: the scheduler. Neighbours: `sizing.py`.
"""

import math
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from cw.config import SchedulerSettings
from cw.errors import ConfigError
from cw.sim.bound import BoundMeter
from cw.sim.network import NetworkModel
from cw.sim.sizing_models import Fleet
from cw.sim.sizing_traffic import Traffic
from cw.units import PAGE_BYTES, SECOND, div_ceil, format_ms

_REQUESTS_MAX: Final = 150_000
"""The compute bound looks at so many requests of the stretch: a bound all the same, sooner had."""
_NAMED_MAX: Final = 5


@attrs.frozen(kw_only=True)
class Bounds:
    """What arithmetic says of the number of GPUs."""

    compute: int
    memory_and_pcie: int
    all_resident: int
    """With so many, all models asked for are resident at once. No bound."""
    pages_asked: int
    """Of all models asked for in the stretch."""
    slowest_load_ns: int
    """What a LOAD of the largest model takes."""

    @property
    def least(self) -> int:
        """Where the search begins."""
        return max(self.compute, self.memory_and_pcie)


def bounds_of(
    fleet: Fleet, traffic: Traffic, *, lead_s: int, target: float, network: NetworkModel
) -> Bounds:
    """Bound the number of GPUs from below."""
    counted = traffic.instants_ns >= lead_s * SECOND
    models = traffic.models[counted]
    asked = np.bincount(models, minlength=len(fleet.models))
    pages = np.array([fleet.pages_of(index) for index in range(len(fleet.models))])
    all_pages = int(pages[asked > 0].sum())
    return Bounds(
        compute=_compute(fleet, traffic, lead_s=lead_s, target=target, network=network),
        memory_and_pcie=_memory(fleet, asked, pages, traffic, target),
        all_resident=div_ceil(max(1, all_pages), fleet.profile.pages_total),
        pages_asked=all_pages,
        slowest_load_ns=fleet.slowest_load_ns(),
    )


def _compute(
    fleet: Fleet, traffic: Traffic, *, lead_s: int, target: float, network: NetworkModel
) -> int:
    counted = traffic.instants_ns >= lead_s * SECOND
    total = int(counted.sum())
    instants = traffic.instants_ns[counted][:_REQUESTS_MAX].tolist()
    models = traffic.models[counted][:_REQUESTS_MAX].tolist()
    tables = [fleet.table_of(index) for index in range(len(fleet.models))]
    # All that may be missed may lie in the part that is looked at.
    needed = len(models) - (1 - target) * total

    def possible(gpus: int) -> bool:
        meter = BoundMeter(
            tables,
            executors=gpus,
            part_count=_REQUESTS_MAX,
            before_ns=3 * network.delay_ns,
            after_ns=network.delay_ns,
        )
        for instant_ns, model in zip(instants, models, strict=True):
            meter.add(instant_ns, instant_ns + traffic.slos_ns[model], model)
        # Requests at the edge count partly, in floating point.
        return meter.total() >= needed - 1e-6

    # A start from below: the device time of the cheapest requests in their densest batches.
    dense = [min(ns / size for size, ns in table.items()) for table in tables]
    costs = np.sort(np.array(dense)[models])[: max(0, math.floor(needed))]
    span_ns = (instants[-1] - instants[0] if instants else 0) + max(traffic.slos_ns)
    gpus = max(1, math.ceil(float(costs.sum()) / span_ns))
    missing, step = gpus - 1, 1
    while not possible(gpus):
        if gpus > 1 << 20:
            return 1  # no number will do: left to the search, which tells why
        missing, gpus, step = gpus, gpus + step, 2 * step
    while gpus - missing > 1:
        middle = (gpus + missing) // 2
        if possible(middle):
            gpus = middle
        else:
            missing = middle
    return gpus


def _memory(
    fleet: Fleet,
    asked: NDArray[np.int64],
    pages: NDArray[np.int64],
    traffic: Traffic,
    target: float,
) -> int:
    rate = fleet.profile.load_bytes_per_second
    if not rate:
        return 1
    spare = (1 - target) * float(asked.sum())
    needed = 0.0
    # As in a fractional knapsack: what costs the most pages to a request is left out first.
    for model in sorted(np.flatnonzero(asked), key=lambda index: asked[index] / pages[index]):
        left_out = min(spare, float(asked[model]))
        spare -= left_out
        needed += float(pages[model]) * (1 - left_out / float(asked[model]))
    seconds = (traffic.duration_ns + max(traffic.slos_ns)) / SECOND
    a_gpu = fleet.profile.pages_total + seconds * rate / PAGE_BYTES
    return max(1, math.ceil(needed / a_gpu - 1e-9))


def check_reachable(
    fleet: Fleet,
    traffic: Traffic,
    *,
    target: float,
    network: NetworkModel,
    settings: SchedulerSettings,
) -> list[str]:
    """Find the models that no number of GPUs serves in time, since one batch of 1 takes too long.

    Returns:
        A note for each kind of them, where the target can be reached without.

    Raises:
        ConfigError: The target is out of reach; says which models, and what they would need.
    """
    hopeless = []
    asked = np.bincount(traffic.models, minlength=len(fleet.models))
    for index, model in enumerate(fleet.models):
        # Three messages before the batch; the margin stands for the way back.
        needs_ns = 3 * network.delay_ns + fleet.table_of(index)[1] + settings.margin_ns
        if needs_ns > traffic.slos_ns[index] and asked[index]:
            hopeless.append((model.name, needs_ns, traffic.slos_ns[index], int(asked[index])))
    if not hopeless:
        return []
    lost = sum(row[3] for row in hopeless) / int(asked.sum())
    shown = "; ".join(
        f"{name} needs {format_ms(needs_ns)}, its SLO is {format_ms(slo_ns)}"
        for name, needs_ns, slo_ns, _ in hopeless[:_NAMED_MAX]
    )
    if len(hopeless) > _NAMED_MAX:
        shown += f"; and {len(hopeless) - _NAMED_MAX} more"
    text = (
        f"{len(hopeless)} models, with {100 * lost:.2f} % of the requests, take longer than their "
        f"SLO on an idle GPU (messages, a batch of 1, the scheduler's margin): {shown}"
    )
    if lost > 1 - target:
        raise ConfigError(
            f"no number of GPUs reaches {100 * target:g} %: {text}. Give them more time (--slo, or "
            "slo in the models' file), a faster device (--profile), or a smaller margin "
            "(--policy default:margin=0.5ms)"
        )
    return [text]
