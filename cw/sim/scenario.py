"""A scenario: everything that a run depends on. The same scenario gives the same bytes."""

import functools
import hashlib
from types import MappingProxyType
from typing import Final

import attrs

from cw.config import SchedulerSettings
from cw.devices.profile_file import BatchDurations, EmulationProfile
from cw.messages import Datatype, ModelSpec, TensorSpec, model_id_for
from cw.sim.checkers.shares import ShareRule
from cw.sim.clocks import ClockModel
from cw.sim.faults import Fault, FaultKind
from cw.sim.network import NetworkModel
from cw.units import MS, SECOND
from cw.workload.workload import Workload

IMAGE_BYTES: Final = {
    "NVIDIA-V100": 102_160_000,  # ResNet-50 in fp32: 7 pages
    "NVIDIA-H100": 51_200_000,  # ResNet-50 in fp16: 4 pages
    "cpu-resnet18": 44_800_000,  # ResNet-18 in fp32: 3 pages
}
"""Weights of the model that a shipped profile was measured with."""
OTHER_IMAGE_BYTES: Final = 100_000_000
"""Of any other."""

_HASTENING: Final = (FaultKind.SLOW, FaultKind.CLOCK, FaultKind.MODEL)
"""With a factor below 1, that is."""

_INPUT: Final = TensorSpec(name="x", datatype=Datatype.FP32, shape=(3, 224, 224))
_OUTPUT: Final = TensorSpec(name="y", datatype=Datatype.FP32, shape=(1000,))


@attrs.frozen(kw_only=True)
class SimModel:
    """One model. What is left out is the profile's."""

    name: str
    image_bytes: int = 0
    """Its weights; 0: those of the model that the profile was measured with."""
    durations: BatchDurations | None = None
    """How long its batches take; None: the profile's own table. Models with equal durations share
    a program, as models of one architecture do."""
    batch_sizes: tuple[int, ...] = ()
    """What it was exported for; empty: the sizes of its durations."""
    tenant: int = 0
    """Whose it is."""


def equal_models(
    count: int, *, image_bytes: int = 0, batch_sizes: tuple[int, ...] = (), tenant: int = 0
) -> tuple[SimModel, ...]:
    """Make copies of the profile's own model, with weights of their own each."""
    return tuple(
        SimModel(
            name=f"model-{index}", image_bytes=image_bytes, batch_sizes=batch_sizes, tenant=tenant
        )
        for index in range(count)
    )


@attrs.frozen(kw_only=True)
class Scenario:
    """One run. Instants count from the start of the traffic."""

    profile: EmulationProfile
    models: tuple[SimModel, ...]
    workload: Workload
    executors: int = 1
    gateways: int = 1
    cells: int = 1
    """Controllers, each with an equal part of the executors."""
    cell_rule: str = "spill"
    """By which gateways choose among cells: see `cw.sim.cells.RULES`."""
    slo_ns: int = 50 * MS
    """What is taken where nothing else is said; each request has its own."""
    duration_ns: int = 30 * SECOND
    seed: int = 1
    settings: SchedulerSettings = attrs.field(factory=SchedulerSettings)
    network: NetworkModel = attrs.field(factory=NetworkModel)
    clocks: ClockModel = attrs.field(factory=ClockModel)
    faults: tuple[Fault, ...] = ()
    shares: ShareRule | None = None
    """What is checked of the tenants' shares; None: nothing."""
    silence_ns: int = SECOND
    """An executor that stalls for longer is given up."""
    detection_ns: int = 2 * MS
    """From an executor's death until its broken connection is noticed."""

    @property
    def synchronises(self) -> bool:
        """Whether executors have to find out by pings what their clocks are worth."""
        drifts = any(fault.kind is FaultKind.DRIFT for fault in self.faults)
        return drifts or not self.clocks.is_perfect

    def durations_of(self, model: SimModel) -> BatchDurations:
        """Say how long the batches of a model take."""
        return model.durations or self.profile.infer

    def table_of(self, model: SimModel) -> dict[int, int]:
        """Say how long (ns) each batch size that a model was exported for takes."""
        durations = self.durations_of(model)
        sizes = model.batch_sizes or durations.batch_sizes
        return {size: durations.duration_ns(size) for size in sizes}

    def fastest_tables(self) -> list[dict[int, int]]:
        """Give each model's table, with what faults may make quicker at its quickest."""
        least: dict[tuple[FaultKind, int], float] = {}
        for fault in self.faults:
            if fault.kind in _HASTENING:
                key = (fault.kind, fault.on if fault.kind is FaultKind.MODEL else 0)
                least[key] = min(least.get(key, 1.0), fault.factor)
        everywhere = least.get((FaultKind.SLOW, 0), 1.0) * least.get((FaultKind.CLOCK, 0), 1.0)
        factors = [
            everywhere * least.get((FaultKind.MODEL, index), 1.0)
            for index in range(len(self.models))
        ]
        return [
            {size: int(ns * factor) for size, ns in self.table_of(model).items()}
            for model, factor in zip(self.models, factors, strict=True)
        ]

    def emulation(self) -> EmulationProfile:
        """Give the profile of the devices, which knows the models' own programs, too."""
        own = {
            _program_of(model): model.durations
            for model in self.models
            if model.durations is not None
        }
        programs = MappingProxyType({**self.profile.programs, **own})
        return attrs.evolve(self.profile, programs=programs)

    def specs(self) -> list[ModelSpec]:
        """Make the models: a program for each table of durations, and weights of their own."""
        of_profile = IMAGE_BYTES.get(self.profile.name, OTHER_IMAGE_BYTES)
        specs = []
        for index, model in enumerate(self.models):
            program, weights = _program_of(model), _sha256(f"weights {index}")
            specs.append(
                ModelSpec(
                    model_id=model_id_for(model.name, program, weights),
                    name=model.name,
                    program_sha256=program,
                    weights_sha256=weights,
                    image_bytes=model.image_bytes or of_profile,
                    inputs=(_INPUT,),
                    outputs=(_OUTPUT,),
                    batch_sizes=model.batch_sizes or self.durations_of(model).batch_sizes,
                )
            )
        return specs


def _program_of(model: SimModel) -> str:
    # A program is exported for its batch sizes: other sizes make another one.
    if model.durations is None and not model.batch_sizes:
        return _sha256("the program")
    return _sha256(f"the program {model.durations} {model.batch_sizes}")


@functools.lru_cache(maxsize=1 << 16)
def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
