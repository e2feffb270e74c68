"""A cuda device, opened as an executor opens it, and models to run on it."""

import contextlib

import attrs

from cw.cli.compose import open_device
from cw.config import ExecutorSettings
from cw.messages import model_id_for
from cw.units import PAGE_BYTES, GiB
from tests.actor.device_models import spec_of


@contextlib.asynccontextmanager
async def cuda_device(pages_total):
    settings = ExecutorSettings(
        device="cuda",
        gpu_memory_bytes=pages_total * PAGE_BYTES,
        host_memory_bytes=GiB,
    )
    device = await open_device(settings, seed=0)
    try:
        yield device
    finally:
        await device.aclose()


def copies_of(archive, count):
    """Make specs that share an archive's files and differ in name and id."""
    spec = spec_of(archive)
    names = [f"{spec.name}-{number}" for number in range(count)]
    return [
        attrs.evolve(
            spec,
            name=name,
            model_id=model_id_for(name, spec.program_sha256, spec.weights_sha256),
        )
        for name in names
    ]
