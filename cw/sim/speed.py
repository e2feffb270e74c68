"""Speed: what the scheduler costs per request, on one core, without any I/O.

The very `Scheduler` of production is driven with arrivals made beforehand and by a least cluster
(`speed_driver.py`); only the time inside `Scheduler.handle` and `wake_at_ns` is counted, and the
driver's share of the whole is told. Models are placed beforehand, so there are few LOADs: what is
measured is deciding.

Popularity is Zipf 0.9. A model that one executor could not serve has as many homes as it needs, and
homes are spread so that every executor is asked for the same.

Use: ``python -m cw.sim.speed``; `measure` is what `cw simulate --experiment scale` calls.
"""

import argparse
import gc
import hashlib
import heapq
import json
import math
import random
import sys
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from cw.config import SchedulerSettings
from cw.core.events import Event, ExecutorJoined, ModelAdded, RequestArrived
from cw.core.scheduler import Scheduler
from cw.devices.profile_file import EmulationProfile, read_profile
from cw.errors import CwError
from cw.messages import (
    Descriptor,
    DeviceDescription,
    Epoch,
    ExecutorId,
    GatewayId,
    ModelId,
    ModelSpec,
    request_id_for,
)
from cw.sim.speed_driver import Counts, Driver
from cw.units import MS, PAGE_BYTES, SECOND, format_ms, parse_duration_ns

ZIPF: Final = 0.9
HOME_SHARE: Final = 0.5
"""A model gets another home for each so much of one executor's load."""
LEAST_REQUESTS: Final = 40_000
WARM_UP_SLOS: Final = 2
COUNTED_SLOS: Final = 3
"""Traffic of so many SLOs comes before counting begins, so that queues and batches are as full as
they will get, and of so many is counted; more where that is less than `LEAST_REQUESTS`."""
GATEWAYS: Final = 4
REGISTRATION_NS: Final = 3600 * SECOND
STEP_NS: Final = 100 * MS


@attrs.frozen(kw_only=True)
class SpeedCase:
    """What to measure."""

    executors: int
    models: int
    profile: str = "v100"
    rate_rps: float = 520.0
    """Requests per second and executor."""
    slo_ns: int = 100 * MS
    policy: str = "default"
    requests: int = 0
    """Counted, after the warm-up's; 0: enough."""
    seed: int = 1

    @property
    def counted(self) -> int:
        """How many requests are counted."""
        return self.requests or max(LEAST_REQUESTS, self._coming_in(COUNTED_SLOS))

    @property
    def warm_up(self) -> int:
        """How many come before."""
        return max(self.counted // 5, self._coming_in(WARM_UP_SLOS))

    def _coming_in(self, slos: int) -> int:
        return int(slos * self.slo_ns / SECOND * self.rate_rps * self.executors)


@attrs.frozen(kw_only=True)
class Speed:
    """What was measured."""

    case: SpeedCase
    counts: Counts

    @property
    def us_per_request(self) -> float:
        """Time in the scheduler for each request that arrived."""
        return self.counts.inside_ns / 1e3 / self.counts.requests

    def as_dict(self) -> dict[str, object]:
        """Show it as plain values."""
        counts, us = self.counts, self.us_per_request
        ended = max(1, counts.kept + counts.late + counts.refused)
        return {
            **attrs.asdict(self.case),
            "requests": counts.requests,
            "us_per_request": round(us, 2),
            "requests_per_second": round(1e6 / us),
            "us_per_infer": round(counts.inside_ns / 1e3 / max(1, counts.infers), 2),
            "batch_mean": round(counts.slots / max(1, counts.infers), 2),
            "events_per_pass": round(counts.events / counts.passes, 2),
            "kept_share": round(counts.kept / ended, 4),
            "refused_share": round(counts.refused / ended, 4),
            "late": counts.late,
            "driver_share": round(1.0 - counts.inside_ns / counts.all_ns, 3),
        }


CASES: Final = (
    SpeedCase(executors=1, models=100),
    SpeedCase(executors=16, models=100),
    SpeedCase(executors=16, models=4000),
    SpeedCase(executors=128, models=4000),
    SpeedCase(executors=1000, models=40_000),
    SpeedCase(executors=16, models=1000, profile="h100", rate_rps=4500.0),
    SpeedCase(executors=64, models=4000, profile="h100", rate_rps=4500.0),
)
"""What is measured when nothing is asked for: from one executor to a thousand, thin batches and
thick ones. A V100 does 520/s with batches of three and 920/s at most, an H100 6,500/s at most."""


def measure(case: SpeedCase) -> Speed:
    """Measure one case.

    Raises:
        CwError: The models did not become ready, or the profile can't be read.
    """
    driver = prepare(case)
    first = case.warm_up
    arrivals = draw_arrivals(case, first + case.counted, driver.now_ns + STEP_NS)
    # As long as a registered cluster lives, its books do: no use in tracing them again and again.
    gc.collect()
    gc.freeze()
    driver.serve(arrivals[:first])
    earlier = attrs.evolve(driver.counts)
    driver.serve(arrivals[first:])
    gc.unfreeze()
    return Speed(case=case, counts=driver.counts.since(earlier))


# --- set-up ---------------------------------------------------------------------------------------


def prepare(case: SpeedCase) -> Driver:
    """Register a case's models by the real path, prepared and resident where they have a home."""
    profile = read_profile(case.profile)
    settings = SchedulerSettings(policy=case.policy, max_models=max(50_000, case.models))
    specs = [_spec(index, profile) for index in range(case.models)]
    driver = Driver(
        Scheduler(settings, epoch=Epoch(1), ticket_seed=case.seed),
        profile,
        {spec.model_id: spec for spec in specs},
        case.seed,
    )
    homes = spread_homes(case)
    device = DeviceDescription(
        kind="emulated",
        name=profile.name,
        pages_total=max(profile.pages_total, max(map(len, homes))),
        shared_lanes=profile.shared_lanes,
        load_bytes_per_second=profile.load_bytes_per_second,
    )
    for number, home in enumerate(homes):
        known = tuple(specs[index].model_id for index in home)
        joined = ExecutorJoined(
            executor_id=ExecutorId(number + 1),
            name=f"executor-{number}",
            device=device,
            prepared=known,
            resident=known,
        )
        driver.feed((joined,))
    # One model of each executor teaches it the program; the others need not be probed.
    pioneers = {home[0] for home in homes}
    _register(driver, [specs[index] for index in sorted(pioneers)])
    _register(driver, [spec for index, spec in enumerate(specs) if index not in pioneers])
    return driver


def _register(driver: Driver, specs: Sequence[ModelSpec]) -> None:
    events: list[Event] = [ModelAdded(spec=spec) for spec in specs]
    driver.feed(events)
    until_ns = driver.now_ns + REGISTRATION_NS
    books = driver.scheduler.books
    while any(executor.bring_up for executor in books.executors.values()) or not all(
        spec.model_id in driver.ready for spec in specs
    ):
        if driver.now_ns > until_ns:
            missing = sum(spec.model_id not in driver.ready for spec in specs)
            raise CwError(f"{missing} of {len(specs)} models are not ready after an hour")
        driver.run((), until_ns=driver.now_ns + STEP_NS)
        driver.now_ns += STEP_NS


def _spec(index: int, profile: EmulationProfile) -> ModelSpec:
    return ModelSpec(
        model_id=ModelId(index + 1),
        name=f"model-{index}",
        program_sha256=hashlib.sha256(profile.name.encode()).hexdigest(),
        weights_sha256=hashlib.sha256(f"weights {index}".encode()).hexdigest(),
        image_bytes=PAGE_BYTES,
        inputs=(),
        outputs=(),
        batch_sizes=profile.infer.batch_sizes,
    )


def popularities(models: int) -> list[float]:
    """Say which share of the requests each model gets, the most popular first."""
    weights = [(rank + 1) ** -ZIPF for rank in range(models)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def spread_homes(case: SpeedCase) -> list[list[int]]:
    """Spread models over executors: per executor its models, the most popular first."""
    homes: list[list[int]] = [[] for _ in range(case.executors)]
    loads = [(0.0, number) for number in range(case.executors)]
    for model, weight in enumerate(popularities(case.models)):
        load = weight * case.executors  # in units of one executor's share
        copies = min(case.executors, max(1, math.ceil(load / HOME_SHARE)))
        chosen = [heapq.heappop(loads) for _ in range(copies)]
        for taken, number in chosen:
            homes[number].append(model)
            heapq.heappush(loads, (taken + load / copies, number))
    return homes


def draw_arrivals(case: SpeedCase, count: int, begin_ns: int) -> list[RequestArrived]:
    """Draw Poisson arrivals of models by their popularity."""
    draw = random.Random(case.seed)
    models = draw.choices(range(case.models), weights=popularities(case.models), k=count)
    mean_ns = SECOND / (case.rate_rps * case.executors)
    instant_ns, arrivals = float(begin_ns), []
    for sequence, model in enumerate(models):
        instant_ns += draw.expovariate(1.0) * mean_ns
        gateway_id = GatewayId(1 + sequence % GATEWAYS)
        descriptor = Descriptor(
            request_id=request_id_for(gateway_id, sequence),
            model_id=ModelId(model + 1),
            arrival_ns=int(instant_ns),
            deadline_ns=int(instant_ns) + case.slo_ns,
        )
        arrivals.append(RequestArrived(descriptor=descriptor))
    return arrivals


# --- the command ----------------------------------------------------------------------------------

COLUMNS: Final = (
    ("us_per_request", "us/request"),
    ("requests_per_second", "requests/s"),
    ("us_per_infer", "us/INFER"),
    ("batch_mean", "batch"),
    ("events_per_pass", "events/pass"),
    ("kept_share", "kept"),
    ("refused_share", "refused"),
    ("driver_share", "driver"),
)


def format_table(speeds: Iterable[Speed]) -> str:
    """Show measurements as a table."""
    rows = [["executors x models", "profile", "per s", "SLO", "policy", *(t for _, t in COLUMNS)]]
    for speed in speeds:
        case, values = speed.case, speed.as_dict()
        rows.append(
            [
                f"{case.executors} x {case.models}",
                case.profile,
                f"{case.rate_rps:g}",
                format_ms(case.slo_ns),
                case.policy,
                *(str(values[key]) for key, _ in COLUMNS),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _parse_cases(arguments: argparse.Namespace) -> list[SpeedCase]:
    if not arguments.case:
        chosen = list(CASES)
    else:
        chosen = []
        for text in arguments.case:
            executors, _, models = text.partition("x")
            if not (executors.isdecimal() and models.isdecimal()):
                raise CwError(f"--case: expected GxM such as 16x4000, got {text!r}")
            rate_rps = arguments.rate or (4500.0 if arguments.profile == "h100" else 520.0)
            chosen.append(
                SpeedCase(
                    executors=int(executors),
                    models=int(models),
                    profile=arguments.profile,
                    rate_rps=rate_rps,
                    slo_ns=parse_duration_ns(arguments.slo),
                )
            )
    return [
        attrs.evolve(case, policy=policy, requests=arguments.requests, seed=arguments.seed)
        for case in chosen
        for policy in arguments.policy.split(",")
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m cw.sim.speed", description=__doc__)
    arg = parser.add_argument
    arg("--case", action="append", metavar="GxM", help="executors x models; may be repeated")
    arg("--profile", default="v100", help="of the cases given (default: %(default)s)")
    arg("--rate", type=float, default=None, help="requests/s per executor, likewise")
    arg("--slo", default="100ms", help="likewise (default: %(default)s)")
    arg("--policy", default="default", help="one or more, by commas (default: %(default)s)")
    arg("--requests", type=int, default=0, help="counted (default: those of three SLOs, or 40,000)")
    arg("--seed", type=int, default=1, help="(default: %(default)s)")
    arg("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(argv)
    try:
        speeds = [measure(case) for case in _parse_cases(arguments)]
    except (CwError, ValueError) as exc:
        print(f"cw: {exc}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps({"cases": [speed.as_dict() for speed in speeds]}))
    else:
        print(format_table(speeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
