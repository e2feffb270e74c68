"""All experiments, in the order in which they run: what decides most comes first."""

from typing import Final

from cw.devices.cuda.experiments import (
    autotune,
    capture,
    h2d,
    jitter,
    keep_warm,
    manual_capture,
    notify,
    pool,
    remap_replay,
    small_copy,
    tensors,
    tlb,
    vmm_async,
    vmm_cost,
)
from cw.devices.cuda.experiments.figures import Experiment

EXPERIMENTS: Final[dict[str, Experiment]] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        tensors,
        remap_replay,
        vmm_cost,
        jitter,
        h2d,
        small_copy,
        notify,
        capture,
        pool,
        keep_warm,
        autotune,
        vmm_async,
        tlb,
        manual_capture,
    )
}
