"""Families: the set-ups that many experiments share, each at any rate and with any policy.

The names are those of the probe, an earlier and separate simulation whose figures are in
`reference.py`: ``v`` is one V100 with 15 equal models, ``h`` one H100 with the same, ``six`` six
V100s with 60 models under bursts, ``mix`` one GPU with 20 shapes of models, three of each; the
number is the SLO in milliseconds.

The probe counted the SLO at the controller, 1 ms (and 0.1 ms of jitter, exponential) away from the
executors each way. Here it counts from the gateway, and a request crosses four links: at 0.5 ms
and 0.05 ms a link that leaves the same budget for planning.
"""

import math
from typing import Final

import attrs

from cw.config import SchedulerSettings
from cw.devices.profile_file import BatchDurations, EmulationProfile, read_profile
from cw.errors import ConfigError
from cw.sim.experiments.experiment import settings_for
from cw.sim.network import NetworkModel
from cw.sim.scenario import Scenario, SimModel, equal_models
from cw.units import MS, SECOND, US
from cw.workload.arrivals import Bursts, Poisson, Popularity, Uniform
from cw.workload.streams import OpenLoop
from cw.workload.workload import Workload

NETWORK: Final = NetworkModel(delay_ns=500 * US, jitter_ns=50 * US)
MARGIN_NS: Final = 500 * US
"""Five times the jitter of two links; the knee of goodput against broken promises in the probe."""
_EQUAL_MODELS: Final = 15
SHAPES: Final = 20
"""Of models, in the family ``mix``."""
MIX_COPIES: Final = 3
"""Models of each shape."""


def probe_v100() -> EmulationProfile:
    """Give the V100 that the probe used: somewhat slower than the shipped one at 8 and 16."""
    table = BatchDurations(
        (1, 2, 4, 8, 16), (2_600 * US, 4_100 * US, 6_600 * US, 11_000 * US, 20_900 * US)
    )
    return attrs.evolve(read_profile("v100"), infer=table, pages_total=1500, jitter_ratio=0.003)


def probe_h100() -> EmulationProfile:
    """Give the H100, which is the shipped one."""
    return read_profile("h100")


def settings(
    policy: str, *, margin_ns: int = MARGIN_NS, faithful: bool = False
) -> SchedulerSettings:
    """Give the settings of a policy (`settings_for`) in all families.

    Args:
        policy: As typed.
        margin_ns: Of all policies alike.
        faithful: Let Clockwork's policy aim 5 ms before the SLO, as its code does; else it gets the
            margin of the others, so that they differ in what they choose alone.
    """
    base = SchedulerSettings(margin_ns=margin_ns)
    if not faithful:
        base = attrs.evolve(base, clockwork_buffer_ns=margin_ns)
    return settings_for(policy, base)


def paper_scenario(
    policy: str,
    *,
    models: int,
    workload: Workload,
    slo_ns: int,
    seed: int,
    duration_ns: int,
    executors: int = 1,
    gateways: int = 1,
    network: NetworkModel = NETWORK,
    margin_ns: int = MARGIN_NS,
) -> Scenario:
    """Make a run of one of the paper's figures: copies of ResNet-50 on V100s."""
    return Scenario(
        profile=read_profile("v100"),
        models=equal_models(models),
        workload=workload,
        executors=executors,
        gateways=gateways,
        slo_ns=slo_ns,
        duration_ns=duration_ns,
        seed=seed,
        settings=settings(policy, margin_ns=margin_ns, faithful=True),
        network=network,
    )


@attrs.frozen(kw_only=True)
class Family:
    """A set-up that waits for a rate, a policy and a seed."""

    name: str
    profile: EmulationProfile
    models: tuple[SimModel, ...]
    slo_ns: int
    rate_rps: float
    """Overload: what the probe offered."""
    executors: int = 1
    bursts: bool = False
    popularity: Popularity = attrs.field(factory=Uniform)

    @property
    def full_rate_rps(self) -> float:
        """Load 1: all executors run nothing but batches of the size that is cheapest a request."""
        weights = self.popularity.weights(len(self.models))
        total_ns = sum(
            weight * cost_ns(model.durations or self.profile.infer, self.slo_ns)
            for weight, model in zip(weights, self.models, strict=True)
        )
        return self.executors * SECOND * sum(weights) / total_ns

    def scenario(
        self,
        policy: str,
        *,
        seed: int,
        duration_ns: int,
        rate_rps: float | None = None,
        margin_ns: int = MARGIN_NS,
    ) -> Scenario:
        """Make a run of it; at the rate of overload unless another is given."""
        rate = rate_rps or self.rate_rps
        arrivals = Bursts(rate_rps=rate) if self.bursts else Poisson(rate_rps=rate)
        stream = OpenLoop(
            arrivals=arrivals,
            popularity=self.popularity,
            models=tuple(range(len(self.models))),
            slo_ns=self.slo_ns,
        )
        return Scenario(
            profile=self.profile,
            models=self.models,
            workload=Workload(streams=(stream,)),
            executors=self.executors,
            slo_ns=self.slo_ns,
            duration_ns=duration_ns,
            seed=seed,
            settings=settings(policy, margin_ns=margin_ns),
            network=NETWORK,
        )


@attrs.frozen
class Weights:
    """A popularity that is given, model by model."""

    values: tuple[float, ...]

    def weights(self, models: int) -> list[float]:
        """See `cw.workload.arrivals.Popularity`."""
        assert models == len(self.values), f"expected {len(self.values)} models, got {models}"
        return list(self.values)


def mixed_models() -> tuple[SimModel, ...]:
    """Make 20 shapes, three of each.

    A batch of one takes 0.5 to 30 ms, in equal ratios from shape to shape, and other sizes take as
    much longer as for ResNet-50 on the V100. Weights are 5 to 500 MB, in another order than the
    times: 7 is coprime to 20, so that each size occurs once.
    """
    curve = probe_v100().infer
    sizes, first_ns = curve.batch_sizes, curve.durations_ns[0]
    models = []
    for shape in range(SHAPES):
        alone_ns = 0.5 * MS * 60 ** (shape / (SHAPES - 1))
        table = tuple(round(alone_ns * each / first_ns) for each in curve.durations_ns)
        size_bytes = round(5e6 * 100 ** (7 * shape % SHAPES / (SHAPES - 1)))
        models += [
            SimModel(
                name=f"shape-{shape:02d}-{copy}",
                image_bytes=size_bytes,
                durations=BatchDurations(sizes, table),
            )
            for copy in range(MIX_COPIES)
        ]
    return tuple(models)


def shape_of(name: str) -> int:
    """Give the number of a mixed model's shape by the model's name."""
    return int(name.split("-")[1])


def cost_ns(durations: BatchDurations, slo_ns: int) -> float:
    """Give the least device time per request, of the batch sizes that can meet the SLO at all."""
    costs = [
        duration_ns / size
        for size, duration_ns in zip(durations.batch_sizes, durations.durations_ns, strict=True)
        if duration_ns <= slo_ns
    ]
    assert costs, f"no batch size of {durations} meets an SLO of {slo_ns} ns"
    return min(costs)


def equal_work(models: tuple[SimModel, ...], slo_ns: int) -> Weights:
    """Give each model requests in inverse proportion to their cost: all ask for equal GPU time."""
    costs = []
    for model in models:
        assert model.durations is not None, f"{model.name} has no durations of its own"
        costs.append(cost_ns(model.durations, slo_ns))
    return Weights(tuple(costs[0] / cost for cost in costs))


def family(name: str) -> Family:
    """Find a family by its name, such as ``v25``, ``h10``, ``six100`` or ``mix100``.

    Raises:
        ConfigError: There is none of that name.
    """
    kind = name.rstrip("0123456789")
    slo_ns = int(name.removeprefix(kind) or 0) * MS
    if not slo_ns:
        raise ConfigError(f"expected a family such as v25, h10, six100 or mix100, got {name!r}")
    match kind:
        case "v":
            # At 10 ms hardly more than batches of two fit, so that less is an overload.
            rate = 770.0 if slo_ns <= 10 * MS else 1_100.0
            return _equal(name, probe_v100(), slo_ns, rate)
        case "h":
            return _equal(name, probe_h100(), slo_ns, 7_500.0)
        case "six":
            six = _equal(name, probe_v100(), slo_ns, 6 * 1_100.0)
            return attrs.evolve(six, models=equal_models(60), executors=6, bursts=True)
        case "mix":
            models = mixed_models()
            mix = Family(
                name=name,
                profile=attrs.evolve(probe_v100(), pages_total=4000),
                models=models,
                slo_ns=slo_ns,
                rate_rps=math.nan,
                popularity=equal_work(models, slo_ns),
            )
            return attrs.evolve(mix, rate_rps=1.3 * mix.full_rate_rps)
        case _:
            raise ConfigError(f"expected a family of kind v, h, six or mix, got {name!r}")


def _equal(name: str, profile: EmulationProfile, slo_ns: int, rate_rps: float) -> Family:
    return Family(
        name=name,
        profile=profile,
        models=equal_models(_EQUAL_MODELS),
        slo_ns=slo_ns,
        rate_rps=rate_rps,
    )
