"""The weights cache: pages are never sold twice, and no program runs that nobody allowed."""

import hashlib

import attrs
import pytest

from cw.actors.weights_cache import StoreLocator, WeightsCache
from cw.core.residency import Residency
from cw.errors import ArchiveInvalid, DeviceFault, ProtocolViolation, UnknownModel
from cw.messages import model_id_for
from tests.actor.fakes import MODEL, FakeDevice, locate_anything, make_model

PROGRAM = b"a program"
PROGRAM_SHA256 = hashlib.sha256(PROGRAM).hexdigest()


async def test_pages_belong_to_one_model_at_a_time(autojump_clock):
    """Were one page given out twice, a model would compute with another's weights."""
    device = FakeDevice(pages_total=4)
    cache = WeightsCache(device, locate_anything)
    models = [make_model(f"m{n}", pages=2) for n in range(3)]
    for model in models:
        await cache.prepare(model)
    first, second, third = (model.model_id for model in models)
    await cache.load(first)
    await cache.load(second)

    assert sorted(device.pages[first] + device.pages[second]) == [0, 1, 2, 3]
    assert not cache.can_fit(third)
    await cache.unload(first)
    assert cache.can_fit(third)
    await cache.load(third)
    assert cache.resident == (second, third)
    assert set(cache.prepared) == {first, second, third}


async def test_a_failed_load_gives_its_pages_back(autojump_clock):
    """The books must stay right for as long as the process lives on."""
    cache = WeightsCache(FakeDevice(pages_total=1, breaks_on="load"), locate_anything)
    await cache.prepare(MODEL)
    with pytest.raises(DeviceFault):
        await cache.load(MODEL.model_id)

    assert cache.state(MODEL.model_id) is Residency.COLD
    assert cache.can_fit(MODEL.model_id)


async def test_preparing_twice_is_done_once(autojump_clock):
    """A controller that restarted may order again what its predecessor had done."""
    device = FakeDevice()
    cache = WeightsCache(device, locate_anything)
    await cache.prepare(MODEL)
    report = await cache.prepare(MODEL)

    assert [call[0] for call in device.calls] == ["prepare"]
    assert report.device_ns == 0


async def test_a_model_that_cannot_be_prepared_stays_unknown(autojump_clock):
    """Else its LOAD would run into a device that never heard of it."""
    device = FakeDevice(refuses_prepare=ArchiveInvalid("no"))
    cache = WeightsCache(device, locate_anything)
    with pytest.raises(ArchiveInvalid):
        await cache.prepare(MODEL)

    assert cache.state(MODEL.model_id) is Residency.UNKNOWN
    assert cache.spec(MODEL.model_id) is None
    with pytest.raises(ProtocolViolation):
        await cache.load(MODEL.model_id)


async def test_a_forgotten_model_is_unknown_again(autojump_clock):
    """Removed models must not fill a table for ever, and may come again."""
    device = FakeDevice()
    cache = WeightsCache(device, locate_anything)
    await cache.prepare(MODEL)
    await cache.forget(MODEL.model_id)

    assert cache.prepared == ()
    assert device.calls[-1][0] == "forget"
    await cache.prepare(MODEL)
    assert cache.prepared == (MODEL.model_id,)


@attrs.define
class FakeStore:
    """As much of the model store as an executor reads."""

    folder: object
    program_sha256: str = PROGRAM_SHA256
    weights_sha256: str = "b" * 64
    allowed: frozenset = frozenset({PROGRAM_SHA256})

    @property
    def manifest(self):
        return self

    @property
    def program_path(self):
        return self.folder / "program.pt2"

    @property
    def weights_path(self):
        return self.folder / "weights.safetensors"

    def version(self, name, model_id):
        if model_id != model_id_for(name, self.program_sha256, self.weights_sha256):
            raise UnknownModel(f"no version of {name!r} has these contents")
        return self

    def is_allowed(self, program_sha256):
        return program_sha256 in self.allowed


@pytest.fixture
def store(tmp_path):
    (tmp_path / "program.pt2").write_bytes(PROGRAM)
    return FakeStore(tmp_path)


def spec():
    return attrs.evolve(
        MODEL,
        program_sha256=PROGRAM_SHA256,
        model_id=model_id_for("m", PROGRAM_SHA256, "b" * 64),
    )


async def test_an_allowed_program_with_the_right_bytes_is_found(store):
    """On the real clock: hashing is a thread's work."""
    files = await StoreLocator(store)(spec())

    assert (files.program, files.weights) == (store.program_path, store.weights_path)


async def test_other_contents_under_the_same_name_are_not_found(store):
    """The plan was made for a version's own weights, whichever one is current by now."""
    with pytest.raises(UnknownModel, match="these contents"):
        await StoreLocator(attrs.evolve(store, weights_sha256="c" * 64))(spec())


@pytest.mark.parametrize("allowed", [frozenset(), frozenset({PROGRAM_SHA256})])
async def test_the_device_is_told_whether_a_program_is_allowed(store, allowed):
    """A program that torch loads is code with this process's rights; all others are rebuilt."""
    files = await StoreLocator(attrs.evolve(store, allowed=allowed))(spec())

    assert files.is_allowed is bool(allowed)


async def test_a_program_changed_on_the_disk_is_refused(store):
    """The allow-list names bytes, not file names."""
    store.program_path.write_bytes(b"another program")

    with pytest.raises(ArchiveInvalid, match="hashes to"):
        await StoreLocator(store)(spec())


async def test_a_missing_program_is_an_error_not_a_crash(store):
    """One broken model must not take the executor's others along."""
    store.program_path.unlink()

    with pytest.raises(ArchiveInvalid, match="expected the files of model 'm'"):
        await StoreLocator(store)(spec())
