"""Partial uploads: what is there is a right beginning, whoever was killed when."""

import errno
import hashlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cw.errors import (
    ArchiveInvalid,
    ChunkDamaged,
    ChunkOutOfOrder,
    OutboxFull,
    StoreFull,
    UnknownUpload,
)
from cw.messages import UploadOffer
from cw.models import uploads as uploads_module
from cw.models.archive import FILE_BYTES_MAX
from cw.models.store import ModelStore
from cw.models.uploads import PartialUploads, UploadLimits
from cw.units import SECOND

FILE = "weights.safetensors"
DATA = bytes(range(256)) * 4
LIMITS = UploadLimits(max_bytes=10_000, max_open=3, max_open_bytes=20_000, keep_ns=60 * SECOND)


def offer_of(name="a", *, weights=1024, manifest=0):
    return UploadOffer(
        manifest_sha256=hashlib.sha256(name.encode()).hexdigest(),
        sizes={"model.toml": manifest, "program.pt2": 0, FILE: weights},
    )


@pytest.fixture
def partial(tmp_path):
    store = ModelStore(tmp_path / "store")
    store.prepare()
    return PartialUploads(store.root, LIMITS)


@pytest.fixture
def staging(tmp_path):
    return tmp_path / "store" / "staging"


def write(partial, upload, start, end, *, data=DATA, file=FILE):
    chunk = data[start:end]
    partial.write(upload, file, chunk, offset=start, crc32=zlib.crc32(chunk))


def content(upload):
    return (upload.folder / FILE).read_bytes()


def test_the_same_offer_goes_on_with_the_same_upload(partial):
    """A client that was killed remembers nothing, and need not."""
    first = partial.begin("a", offer_of())
    write(partial, first, 0, 300)
    second = partial.begin("a", offer_of())

    assert second == first == partial.resume("a", first.token)
    assert partial.written(second) == {"model.toml": 0, "program.pt2": 0, FILE: 300}
    assert partial.begin("a", offer_of("b")).token != first.token


def test_a_restart_leaves_uploads_and_nothing_else(partial, staging, tmp_path):
    """`prepare` runs at each start of a controller: hours of an upload must survive it."""
    upload = partial.begin("a", offer_of())
    write(partial, upload, 0, 300)
    (staging / "0123456789abcdef").mkdir()
    ModelStore(tmp_path / "store").prepare()

    assert partial.written(partial.resume("a", upload.token))[FILE] == 300
    assert not (staging / "0123456789abcdef").exists()


@pytest.mark.parametrize("token", ["", "../../escaped", "0" * 32, "X" * 32])
def test_a_token_of_nobody_opens_nothing(partial, token):
    """Tokens come from clients, and are files here."""
    with pytest.raises(UnknownUpload):
        partial.resume("a", token)


def test_a_token_of_somebody_else_opens_nothing(partial):
    """And is not told apart from one that does not exist."""
    upload = partial.begin("a", offer_of())
    with pytest.raises(UnknownUpload) as theirs:
        partial.resume("b", upload.token)
    with pytest.raises(UnknownUpload) as nobodys:
        partial.resume("b", "0" * 32)

    assert str(theirs.value) == str(nobodys.value)
    assert partial.begin("b", offer_of()).token != upload.token


def test_a_damaged_chunk_is_not_written(partial):
    """It is asked for again, and the next one in its place is right."""
    upload = partial.begin("a", offer_of())
    with pytest.raises(ChunkDamaged, match="send it again"):
        partial.write(upload, FILE, b"abc", offset=0, crc32=zlib.crc32(b"xyz"))
    assert partial.written(upload)[FILE] == 0
    write(partial, upload, 0, len(DATA))

    assert content(upload) == DATA


def test_a_chunk_out_of_order_is_refused_and_one_twice_changes_nothing(partial):
    """A file with a hole would look complete."""
    upload = partial.begin("a", offer_of())
    with pytest.raises(ChunkOutOfOrder, match="at byte 0 or before, got one at 300"):
        write(partial, upload, 300, 600)
    write(partial, upload, 0, 300)
    write(partial, upload, 0, 300)
    write(partial, upload, 100, 400)
    write(partial, upload, 400, len(DATA))

    assert content(upload) == DATA


@given(cuts=st.lists(st.tuples(st.integers(0, 1024), st.integers(0, 1024)), max_size=20))
@settings(max_examples=60)
def test_any_chunks_leave_a_right_beginning(tmp_path_factory, cuts):
    """Whatever comes in whatever order: what is there is what was meant to be there."""
    store = ModelStore(tmp_path_factory.mktemp("any") / "store")
    store.prepare()
    partial = PartialUploads(store.root, LIMITS)
    upload = partial.begin("a", offer_of())
    for one, other in cuts:
        try:
            write(partial, upload, min(one, other), max(one, other))
        except ChunkOutOfOrder:
            assert min(one, other) > partial.written(upload)[FILE]
    have = partial.written(upload)[FILE]
    write(partial, upload, have, len(DATA))

    assert content(upload) == DATA


def test_two_clients_that_send_one_archive_help_one_another(partial):
    """Their chunks are the same bytes: neither may spoil what the other has written."""
    upload = partial.begin("a", offer_of())

    def send(_):
        have = 0
        while have < len(DATA):
            have = partial.written(upload)[FILE]
            write(partial, upload, have, have + 7)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))

    assert content(upload) == DATA


@pytest.mark.parametrize(
    "offer",
    [
        attrs.evolve(offer_of(), sizes={FILE: 1}),
        attrs.evolve(offer_of(), sizes={**offer_of().sizes, "../escaped": 1}),
        attrs.evolve(offer_of(), manifest_sha256="../escaped"),
        offer_of(weights=-1),
        offer_of(weights=LIMITS.max_bytes + 1),
        offer_of(manifest=FILE_BYTES_MAX["model.toml"] + 1),
    ],
)
def test_a_bad_offer_leaves_nothing(partial, staging, offer):
    """Its size is judged before a byte is sent."""
    with pytest.raises(ArchiveInvalid):
        partial.begin("a", offer)

    assert list(staging.iterdir()) == []


def test_more_than_was_offered_is_refused(partial):
    """The bounds were judged by the offer."""
    upload = partial.begin("a", offer_of(weights=10))
    for file, offset in ((FILE, 5), (FILE, -1), ("program.pt2", 0), ("../escaped", 0)):
        with pytest.raises(ArchiveInvalid):
            partial.write(upload, file, b"123456", offset=offset, crc32=zlib.crc32(b"123456"))

    assert sum(partial.written(upload).values()) == 0


def test_open_uploads_are_bounded_for_each_owner(partial):
    """One tenant's abandoned uploads must not keep another from its own."""
    made = [partial.begin("a", offer_of(str(number))) for number in range(3)]
    with pytest.raises(OutboxFull, match="3 uploads are open"):
        partial.begin("a", offer_of("4"))
    assert partial.begin("a", offer_of("1")) == made[1]
    partial.begin("b", offer_of("4", weights=9_000))
    partial.begin("b", offer_of("5", weights=9_000))
    with pytest.raises(OutboxFull, match="2 uploads are open"):
        partial.begin("b", offer_of("6", weights=9_000))
    partial.discard(made[0])

    assert partial.begin("a", offer_of("4"))


def test_a_disk_without_room_is_told_at_the_beginning(partial, staging, monkeypatch):
    """What other uploads will still need counts as taken."""
    partial.begin("a", offer_of())
    usage = attrs.make_class("Usage", {"free": attrs.field(default=len(DATA) + 100)})()
    monkeypatch.setattr(uploads_module.shutil, "disk_usage", lambda _: usage)
    before = sorted(staging.iterdir())
    with pytest.raises(StoreFull, match="make the disk larger"):
        partial.begin("a", offer_of("b", weights=101))

    assert sorted(staging.iterdir()) == before
    partial.begin("a", offer_of("c", weights=100))


def test_a_disk_that_fills_up_is_told_and_nothing_stays(partial, staging, monkeypatch):
    """Half an archive on a full disk would keep it full."""
    upload = partial.begin("a", offer_of())
    write(partial, upload, 0, 300)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(uploads_module.os, "pwrite", full)
    with pytest.raises(StoreFull, match="disk is full"):
        write(partial, upload, 300, 600)
    monkeypatch.undo()

    assert list(staging.iterdir()) == []
    with pytest.raises(UnknownUpload):
        write(partial, upload, 300, 600)


def test_stale_uploads_are_swept_and_others_are_not(partial, staging):
    """By the last byte that came, not by the beginning: slow links are not stale."""
    stale, slow = partial.begin("a", offer_of("a")), partial.begin("a", offer_of("b"))
    write(partial, slow, 0, 300)
    begun_ns = max(path.stat().st_mtime_ns for path in staging.iterdir())
    for path in (staging / f"{slow.token}.json", staging / f"{stale.token}.json"):
        os.utime(path, ns=(begun_ns, begun_ns))
    later_ns = begun_ns + LIMITS.keep_ns
    os.utime(slow.folder / FILE, ns=(later_ns, later_ns))

    assert partial.sweep(wall_ns=later_ns) == 0
    assert partial.sweep(wall_ns=later_ns + 1) == 1
    assert partial.resume("a", slow.token)
    with pytest.raises(UnknownUpload):
        partial.resume("a", stale.token)


def test_an_incomplete_upload_can_not_be_committed(partial):
    """It says what is missing, and stays."""
    upload = partial.begin("a", offer_of())
    write(partial, upload, 0, 300)
    with (
        pytest.raises(ArchiveInvalid, match="expected 1024 bytes, got 300"),
        partial.completing(upload),
    ):
        pass

    assert partial.written(upload)[FILE] == 300


def test_only_one_commits(partial):
    """The other is told to wait, or that it has ended."""
    upload = partial.begin("a", offer_of())
    write(partial, upload, 0, len(DATA))
    with partial.completing(upload) as folder:
        with pytest.raises(ArchiveInvalid, match="already"), partial.completing(upload):
            pass
        folder.rename(folder.with_name("moved"))

    with pytest.raises(UnknownUpload), partial.completing(upload):
        pass
    with pytest.raises(UnknownUpload):
        write(partial, upload, 0, 10)
