"""What is each device's own: the CPU really computes, the emulated one obeys its profile."""

import weakref
from pathlib import Path

import attrs
import numpy as np
import pytest

from cw.actors.clock import now_ns
from cw.devices.emulated import EmulatedDevice
from cw.devices.profile_file import read_profile
from cw.errors import RequestInvalid
from cw.messages import ModelId
from cw.models.examples.tiny import CNN, MLP
from tests.actor.device_models import (
    answer_alone,
    assert_close,
    open_device,
    pack_archives,
    prepare,
    sample,
    spec_of,
)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return pack_archives(tmp_path_factory.mktemp("device-models"))


async def test_cpu_answers_are_the_models_own(archives):
    """Prepared, paged, batched and copied out, an answer is still what the module computes."""
    async with open_device("cpu") as device:
        for example in (MLP, CNN):
            for half, seed in (("a", 1), ("b", 2)):
                spec = await prepare(device, archives[f"{example.name}-{half}"])
                await device.load(spec.model_id, [3])
                inputs = sample(spec, 11)
                arrays = {
                    tensor.name: np.frombuffer(data, np.float32).reshape(tensor.shape).copy()
                    for tensor, data in zip(spec.inputs, inputs, strict=True)
                }
                own = example.run(arrays, seed=seed)
                expected = [own[tensor.name].tobytes() for tensor in spec.outputs]
                assert_close(await answer_alone(device, spec, inputs), expected)
                await device.unload(spec.model_id)


async def test_cpu_survives_what_a_model_refuses(archives):
    """A client's token id out of range is the client's mistake, not a broken device."""
    async with open_device("cpu") as device:
        spec = await prepare(device, archives["lookup"])
        await device.load(spec.model_id, [0])
        bad, good = (np.array([0, 1, top], np.int64).tobytes() for top in (8, 7))
        with pytest.raises(RequestInvalid, match="index out of range"):
            await device.infer(spec.model_id, 2, [(good,), (bad,)])
        for wrong in ((good[:-1],), (good, good), ()):
            with pytest.raises(RequestInvalid, match="expected"):
                await device.infer(spec.model_id, 1, [wrong])

        (outputs,) = await answer_alone(device, spec, (good,))
        assert len(outputs) == spec.outputs[0].size_bytes


async def test_cpu_shares_one_program_between_models(archives):
    """Thousands of models of one architecture must not load thousands of programs."""
    archive = archives["tiny-cnn-a"]
    async with open_device("cpu") as device:
        for number in range(60):
            if number == 10:  # allocators have what they keep by then
                before = private_bytes()
            spec = attrs.evolve(spec_of(archive), model_id=ModelId(number))
            await device.prepare(spec, archive.program_path, archive.weights_path)

        # Each has an image of its own in host memory, and next to nothing beside it.
        assert (private_bytes() - before) / 50 < archive.manifest.image_bytes + 500_000


async def test_cpu_programs_go_with_their_last_model(archives):
    """A graph is a cycle of Python objects, megabytes of them, and the collector is kept away."""
    async with open_device("cpu") as device:
        specs = [await prepare(device, archives[f"tiny-cnn-{half}"]) for half in "ab"]
        program = weakref.ref(device._programs[specs[0].program_sha256])
        graph = weakref.ref(program()._forward.__self__)
        await device.forget(specs[0].model_id)
        await prepare(device, archives["tiny-mlp-a"])
        assert graph() is not None
        await device.forget(specs[1].model_id)
        await prepare(device, archives["tiny-mlp-b"])

        assert program() is graph() is None


async def test_emulated_time_is_virtual_on_a_virtual_clock(archives, autojump_clock):
    """A simulated hour must take as long as it takes to compute, and be the same each time."""
    profile = attrs.evolve(read_profile("v100"), outlier_probability=0.5)
    runs = []
    for _ in range(2):
        device = EmulatedDevice(profile, seed=3)
        spec = await prepare(device, archives["tiny-cnn-a"])
        await device.load(spec.model_id, [1375])
        begin_ns = now_ns()
        reports = [await device.infer(spec.model_id, 8, []) for _ in range(50)]
        runs.append([report.device_ns for report in reports])
        assert now_ns() - begin_ns == pytest.approx(sum(runs[-1]), abs=1000)
        await device.aclose()

    assert runs[0] == runs[1]
    slow = sum(duration > 14_000_000 for duration in runs[0])
    assert 10 < slow < 40


async def test_emulated_obeys_its_profile(archives, autojump_clock):
    """Tests and simulations are arithmetic on the profile's numbers."""
    device = EmulatedDevice(read_profile("fixed-2ms"), verify=False)
    spec = attrs.evolve(spec_of(archives["tiny-mlp-a"]), image_bytes=3 * (1 << 24))
    prepared = await device.prepare(spec, Path("absent"), Path("absent"))
    loaded = await device.load(spec.model_id, [0, 1, 2])
    ran = await device.infer(spec.model_id, 4, [(b"\1" * 16,), (b"\2" * 16,)])
    await device.aclose()

    assert (prepared.device_ns, loaded.device_ns, ran.device_ns) == (0, 3_000_000, 2_000_000)
    assert ran.outputs == ((b"\1" * 12,), (b"\2" * 12,))


def private_bytes():
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines()
    )
    return int(fields["RssAnon"].split()[0]) * 1024
