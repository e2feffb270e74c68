"""A scenario: everything that a run depends on. The same scenario gives the same bytes."""

import hashlib
from typing import Final

import attrs

from cw.config import SchedulerSettings
from cw.devices.profile_file import EmulationProfile
from cw.messages import Datatype, ModelSpec, TensorSpec, model_id_for
from cw.sim.faults import Fault
from cw.sim.network import NetworkModel
from cw.units import MS, SECOND
from cw.workload.arrivals import ArrivalProcess, Popularity, Uniform

IMAGE_BYTES: Final = {
    "NVIDIA-V100": 102_160_000,  # ResNet-50 in fp32: 7 pages
    "NVIDIA-H100": 51_200_000,  # ResNet-50 in fp16: 4 pages
    "cpu-resnet18": 44_800_000,  # ResNet-18 in fp32: 3 pages
}
"""Weights of the model that a shipped profile was measured with."""
_OTHER_IMAGE_BYTES: Final = 100_000_000


@attrs.frozen(kw_only=True)
class Scenario:
    """One run. Instants count from the start of the traffic."""

    profile: EmulationProfile
    arrivals: ArrivalProcess
    popularity: Popularity = attrs.field(factory=Uniform)
    models: int = 8
    executors: int = 1
    gateways: int = 1
    slo_ns: int = 50 * MS
    duration_ns: int = 30 * SECOND
    seed: int = 1
    settings: SchedulerSettings = attrs.field(factory=SchedulerSettings)
    network: NetworkModel = attrs.field(factory=NetworkModel)
    faults: tuple[Fault, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    """What the models were exported for; empty: those of the profile's table."""
    image_bytes: int = 0
    """Each model's weights; 0: those of the model that the profile was measured with."""
    silence_ns: int = SECOND
    """An executor that stalls for longer is given up."""
    detection_ns: int = 2 * MS
    """From an executor's death until its broken connection is noticed."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The captured batch sizes, ascending."""
        return self.batch_sizes or self.profile.infer.batch_sizes

    def specs(self) -> list[ModelSpec]:
        """Make the models: one program, and weights of their own for each."""
        image_bytes = self.image_bytes or IMAGE_BYTES.get(self.profile.name, _OTHER_IMAGE_BYTES)
        program = _sha256("the program")
        specs = []
        for index in range(self.models):
            name, weights = f"model-{index}", _sha256(f"weights {index}")
            specs.append(
                ModelSpec(
                    model_id=model_id_for(name, program, weights),
                    name=name,
                    program_sha256=program,
                    weights_sha256=weights,
                    image_bytes=image_bytes,
                    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(3, 224, 224)),),
                    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(1000,)),),
                    batch_sizes=self.sizes,
                )
            )
        return specs


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
