"""The doors: who may do what, and uploads that become a model whole or leave nothing behind.

The store is a real one in a temporary folder, on the real clock: its work is done in threads.
"""

import hashlib
import hmac
import shutil
import zlib

import attrs
import pytest
import trio

from cw.actors.doors import ServingDoor
from cw.actors.gateway import GatewayActor
from cw.config import GatewaySettings, LinkSettings
from cw.core.routes import Routes
from cw.errors import (
    AccessDenied,
    ArchiveInvalid,
    ManifestInvalid,
    PeerDisconnected,
    ProgramNotAllowed,
    RequestInvalid,
    UnknownModel,
    UnknownUpload,
)
from cw.messages import CatalogAnswer, UploadOffer
from cw.models.archive import FILE_BYTES_MAX
from cw.models.examples.tiny import MLP
from cw.models.manifest import dump_manifest
from cw.models.pack import pack_weights
from cw.models.store import ModelStore
from cw.rpc.memory import MemoryNetwork
from tests.actor.fakes import MODEL
from tests.writing_model import WRITING

KEY = "the administrator's key"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return MLP.pack(tmp_path_factory.mktemp("packed") / "mlp")


@pytest.fixture(scope="module")
def newer(packed, tmp_path_factory):
    """Other weights under the same name."""
    out = tmp_path_factory.mktemp("newer") / "mlp"
    return pack_weights(packed, MLP.build(2).state_dict(), name="tiny-mlp", out=out)


@attrs.define(eq=False)
class Session:
    """The controller's catalog, and nothing else of it."""

    routes: Routes
    """The gateway's, told at once."""
    added: list = attrs.Factory(list)
    removed: list = attrs.Factory(list)
    adding: trio.Event | None = None
    """If set, an addition waits for it."""
    asked: trio.Event = attrs.Factory(trio.Event)

    async def add_model(self, spec, *, hold=False):
        self.asked.set()
        if self.adding is not None:
            await self.adding.wait()
        self.added.append(spec)
        self.routes.add(spec)
        return spec

    async def catalog(self, order):
        return CatalogAnswer()

    async def remove_model(self, model_id):
        self.removed.append(model_id)
        self.routes.remove(model_id)


@attrs.frozen
class Rig:
    """A front door with a store behind it."""

    door: ServingDoor
    store: ModelStore
    session: Session

    @property
    def gateway(self):
        return self.door.gateway

    async def admin(self):
        return await self.door.admin(KEY)

    def is_empty(self):
        """Whether the store holds no model and nothing half done."""
        return not self.staged() and not self.store.models()

    def staged(self):
        return list((self.store.root / "staging").iterdir())


@pytest.fixture
def rig(tmp_path, packed):
    store = ModelStore(tmp_path / "store")
    store.prepare()
    store.allow_program(packed.manifest.program_sha256, "tests")
    gateway = GatewayActor(
        name="g1",
        settings=GatewaySettings(),
        link=LinkSettings(),
        dial_controller=None,
        dial_executor=None,
    )
    gateway.session = session = Session(gateway.routes)
    return Rig(ServingDoor(gateway, store, KEY), store, session)


def offer_of(folder):
    return UploadOffer(
        manifest_sha256=hashlib.sha256((folder / "model.toml").read_bytes()).hexdigest(),
        sizes={name: (folder / name).stat().st_size for name in FILE_BYTES_MAX},
    )


async def write(upload, name, content, start=0):
    await upload.write(name, content, offset=start, crc32=zlib.crc32(content))


async def begin(admin, folder, *, names=tuple(FILE_BYTES_MAX), piece_bytes=2000):
    """Write an archive in pieces, up to the commit."""
    upload = await admin.begin_upload(offer_of(folder))
    for name in names:
        content = (folder / name).read_bytes()
        for start in range(0, len(content), piece_bytes):
            await write(upload, name, content[start : start + piece_bytes], start)
    return upload


# --- keys -----------------------------------------------------------------------------------------


async def test_each_key_opens_its_own_door(rig):
    """What a client holds is what it may do: a wrong key must give it nothing to hold."""
    await rig.door.login("")
    await rig.door.login(KEY)
    await rig.door.admin(KEY)
    for key in ("wrong", KEY[:-1], KEY + " ", "\N{SNOWMAN}"):
        with pytest.raises(AccessDenied):
            await rig.door.login(key)
        with pytest.raises(AccessDenied):
            await rig.door.admin(key)
    with pytest.raises(AccessDenied):
        await rig.door.admin("")


async def test_without_an_administrators_key_nobody_is_one(rig):
    """An empty key would otherwise equal the empty setting."""
    door = ServingDoor(rig.gateway, rig.store, "")
    for key in ("", KEY):
        with pytest.raises(AccessDenied):
            await door.admin(key)


async def test_keys_are_compared_in_constant_time(rig, monkeypatch):
    """How long a comparison takes must not tell how many of a key's letters are right."""
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda one, other: compared.append(one) or compare(one, other)
    )
    await rig.door.admin(KEY)
    with pytest.raises(AccessDenied):
        await rig.door.admin("wrong")
    with pytest.raises(AccessDenied):
        await rig.door.login("wrong")

    assert compared == [KEY.encode(), b"wrong", b"wrong"]


# --- uploads --------------------------------------------------------------------------------------


async def test_upload_becomes_a_model(rig, packed):
    """The whole way: pieces, commit, store, controller; nothing else stays."""
    upload = await begin(await rig.admin(), packed.folder)
    spec = await upload.commit()
    with pytest.raises(UnknownUpload, match="has ended"):
        await write(upload, "model.toml", b"")
    await upload.discard()

    assert spec == packed.manifest.to_spec()
    assert rig.session.added == [spec]
    placed = rig.store.version(spec.name, spec.model_id)
    assert placed.manifest == packed.manifest
    assert rig.staged() == []


async def test_pieces_that_are_not_waited_for_keep_their_order(rig, packed):
    """A client may keep several pieces on their way; each is written in a thread of its own."""
    upload = await begin(await rig.admin(), packed.folder, names=("model.toml",))
    for name in ("program.pt2", "weights.safetensors"):
        content = (packed.folder / name).read_bytes()
        async with trio.open_nursery() as nursery:
            for start in range(0, len(content), 500):
                nursery.start_soon(write, upload, name, content[start : start + 500], start)
                await trio.lowlevel.checkpoint()

    assert (await upload.commit()) == packed.manifest.to_spec()


async def test_an_upload_goes_on_through_another_gateway(rig, packed):
    """The first one's process may be gone: what is in the store is all that counts."""
    upload = await begin(await rig.admin(), packed.folder, names=("model.toml", "program.pt2"))
    other = attrs.evolve(rig.door)
    found = await (await other.admin(KEY)).resume_upload(upload.token)
    progress = await found.progress()
    content = (packed.folder / "weights.safetensors").read_bytes()
    await write(found, "weights.safetensors", content)

    assert progress["program.pt2"] == (packed.folder / "program.pt2").stat().st_size
    assert progress["weights.safetensors"] == 0
    assert (await found.commit()) == packed.manifest.to_spec()


async def test_two_versions_at_once_leave_what_is_current_to_the_controller(rig, packed, newer):
    """Through two gateways, whoever came last would otherwise change what is served."""
    uploads = [await begin(await rig.admin(), it.folder) for it in (packed, newer)]
    async with trio.open_nursery() as nursery:
        for upload in uploads:
            nursery.start_soon(upload.commit)

    assert rig.store.records() == ()
    assert len(rig.session.added) == 2
    for archive in (packed, newer):
        model_id = archive.manifest.to_spec().model_id
        assert rig.store.version("tiny-mlp", model_id).manifest == archive.manifest


async def test_commit_without_a_controller_may_be_tried_again(rig, packed):
    """The upload took minutes, the controller's restart takes a second."""
    upload = await begin(await rig.admin(), packed.folder)
    rig.gateway.session = None
    with pytest.raises(PeerDisconnected, match="retry"):
        await upload.commit()
    rig.gateway.session = rig.session

    assert (await upload.commit()) == packed.manifest.to_spec()


async def test_hostile_archive_leaves_nothing(rig, packed, tmp_path):
    """Whatever is wrong with it, the store stays as it was."""
    folder = tmp_path / "hostile"
    shutil.copytree(packed.folder, folder)
    manifest = attrs.evolve(packed.manifest, program_sha256="0" * 64)
    (folder / "model.toml").write_text(dump_manifest(manifest))
    with pytest.raises(ArchiveInvalid, match="sha256"):
        await (await begin(await rig.admin(), folder)).commit()
    (folder / "model.toml").write_text("name = '../../escaped'")
    with pytest.raises(ManifestInvalid):
        await (await begin(await rig.admin(), folder)).commit()
    upload = await (await rig.admin()).begin_upload(offer_of(packed.folder))
    with pytest.raises(ArchiveInvalid, match="send the rest first"):
        await upload.commit()
    await upload.discard()

    assert rig.is_empty()
    assert rig.session.added == []


async def test_a_program_that_cannot_be_rebuilt_has_to_be_allowed_first(rig, tmp_path):
    """Executors run it as code: only an administrator's word lets one in."""
    packed = WRITING.pack(tmp_path / "writing")
    admin = await rig.admin()
    with pytest.raises(ProgramNotAllowed):
        await (await begin(admin, packed.folder)).commit()

    assert rig.is_empty()
    await admin.allow_program(packed.manifest.program_sha256)
    spec = await (await begin(admin, packed.folder)).commit()
    assert rig.store.version(spec.name, spec.model_id)


async def test_nonsense_is_not_allowed_as_a_program(rig):
    """A line of its own in the allow-list could allow another program, or all."""
    admin = await rig.admin()
    before = rig.store.allowed_programs()
    for nonsense in ("", "all", "0" * 63, "0" * 64 + "\n" + "1" * 64, "G" * 64):
        with pytest.raises(RequestInvalid, match="program_sha256"):
            await admin.allow_program(nonsense)

    assert rig.store.allowed_programs() == before


# --- clients that go away -------------------------------------------------------------------------


async def test_vanished_clients_upload_waits_for_it(rig, packed):
    """It comes back and goes on; if it does not, the upload is swept away in the end."""
    network = MemoryNetwork()
    network.serve("gateway", rig.door)
    async with network.connect_serving("gateway") as serving:
        begun = await begin(await serving.admin(KEY), packed.folder)
    async with network.connect_serving("gateway") as serving:
        resumed = await (await serving.admin(KEY)).begin_upload(offer_of(packed.folder))

        assert resumed.token == begun.token
        assert await resumed.progress() == offer_of(packed.folder).sizes
        await resumed.commit()
    assert rig.staged() == []


async def test_commit_is_finished_for_a_client_that_went_away(rig, packed):
    """In the store but in no catalog, a model could be neither used nor removed."""
    rig.session.adding = trio.Event()
    upload = await begin(await rig.admin(), packed.folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload.commit)
        await rig.session.asked.wait()
        nursery.cancel_scope.cancel()
        rig.session.adding.set()

    assert rig.session.added == [packed.manifest.to_spec()]
    assert rig.staged() == []


# --- models ---------------------------------------------------------------------------------------


async def test_removal_takes_a_model_from_the_cluster(rig, packed):
    """Its files are the controller's to delete, which alone knows what else happens to the name."""
    admin = await rig.admin()
    with pytest.raises(UnknownModel, match="cw model list"):
        await admin.remove_model("tiny-mlp")
    spec = await (await begin(admin, packed.folder)).commit()
    await admin.remove_model(spec.name)
    with pytest.raises(UnknownModel, match="cw model list"):
        await admin.remove_model(spec.name)

    assert rig.session.removed == [spec.model_id]


async def test_an_upload_after_a_removal_begins_a_new_life(rig, packed):
    """Nothing of the earlier one is in its way."""
    admin = await rig.admin()
    first = await (await begin(admin, packed.folder)).commit()
    await admin.remove_model(first.name)
    rig.store.commit(shutil.copytree(packed.folder, rig.store.root / "staging" / "0"))
    rig.store.remove(first.name)

    assert await (await begin(admin, packed.folder)).commit() == first


async def test_tenant_without_a_controller_is_told_so(rig):
    """A client can then go to another gateway, instead of taking it for a bug."""
    tenant = await rig.door.login("")
    rig.gateway.session = None
    rig.gateway.routes.add(MODEL)
    for ask in (tenant.models, tenant.status, lambda: tenant.model_status("m")):
        with pytest.raises(PeerDisconnected, match="no controller"):
            await ask()
    # It names the models: without one a gateway can't tell what is not there from what is.
    with pytest.raises(PeerDisconnected, match="no controller"):
        tenant.model_spec("n")
    with pytest.raises(PeerDisconnected, match="no controller"):
        await tenant.model_status("n")
