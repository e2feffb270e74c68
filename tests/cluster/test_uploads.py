"""Archives from strangers, through the real door: refused with the reason, and nothing is left."""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
import trio

from cw.client import connect, connect_blocking
from cw.errors import ArchiveInvalid, ManifestInvalid
from cw.messages import UploadOffer
from cw.models.archive import FILE_BYTES_MAX
from tests.cluster.clusters import CW, FEATURES, environment, wait_until
from tests.writing_model import WRITING

pytestmark = pytest.mark.cluster


MARK = Path(tempfile.gettempdir()) / f"cw-was-here-{os.getpid()}"
"""Made by whoever unpickles what he should not."""


class Evil:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


@pytest.fixture
def archive(mlp, tmp_path):
    """Copy the good archive, to be spoilt, under a name of its own."""
    folder = tmp_path / "spoilt"
    shutil.copytree(mlp.folder, folder)
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('"tiny-mlp"', '"spoilt"'))
    return folder


@pytest.fixture(autouse=True)
def unharmed(emulated):
    """After each test nothing is staged, nothing was added, and the same processes serve."""
    before = emulated.pids
    yield
    assert not MARK.exists()
    staging = emulated.folder / "store" / "staging"
    wait_until(lambda: not any(staging.iterdir()), what="staging empty again")
    with connect_blocking(emulated.address) as client:
        assert client.infer("tiny-mlp", FEATURES, slo="5s").outputs is not None
        assert [model.spec.name for model in client.models()] == ["tiny-mlp"]
    assert emulated.pids == before


def edit(path, change):
    path.write_bytes(change(path.read_bytes()))


def truncate(folder):
    edit(folder / "weights.safetensors", lambda data: data[:-1])


def grow(folder):
    edit(folder / "weights.safetensors", lambda data: data + bytes(4096))


def flip(folder):
    edit(folder / "weights.safetensors", lambda data: data[:-8] + b"\xff" * 8)


def lie_about_offsets(folder):
    def change(data):
        at = data.index(b"data_offsets")
        digit = next(i for i in range(at + 12, len(data)) if data[i : i + 1].isdigit())
        return data[:digit] + b"9" + data[digit + 1 :]

    edit(folder / "weights.safetensors", change)


def lie_about_the_header(folder):
    edit(folder / "weights.safetensors", lambda data: (2**62).to_bytes(8, "little") + data[8:])


def pickle_for_program(folder):
    import pickle

    (folder / "program.pt2").write_bytes(pickle.dumps(Evil()))


def pickle_in_program(folder):
    import pickle

    path = folder / "program.pt2"
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    members["archive/data/sample_inputs/model.pt"] = pickle.dumps(Evil())
    with zipfile.ZipFile(path, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)


def traverse_in_program(folder):
    with zipfile.ZipFile(folder / "program.pt2", "a") as target:
        target.writestr("../../../../tmp/evil", b"")


def traverse_by_name(folder):
    edit(folder / "model.toml", lambda text: text.replace(b'"spoilt"', b'"../../evil"'))


def no_manifest(folder):
    (folder / "model.toml").write_bytes(b"\xff\xfe not toml")


def huge_manifest(folder):
    (folder / "model.toml").write_bytes(b"#" * (FILE_BYTES_MAX["model.toml"] + 1))


def other_shape(folder):
    edit(folder / "model.toml", lambda text: text.replace(b"[4]", b"[5]"))


def empty_weights(folder):
    (folder / "weights.safetensors").write_bytes(b"")


SPOILERS = [
    (truncate, ArchiveInvalid, "weights: "),
    (grow, ArchiveInvalid, "weights: "),
    (flip, ArchiveInvalid, "expected sha256"),
    (lie_about_offsets, ArchiveInvalid, "weights: "),
    (lie_about_the_header, ArchiveInvalid, "weights: "),
    (pickle_for_program, ArchiveInvalid, "program.pt2"),
    (pickle_in_program, ArchiveInvalid, "program.pt2"),
    (traverse_in_program, ArchiveInvalid, "program.pt2"),
    (traverse_by_name, ManifestInvalid, "name"),
    (no_manifest, ArchiveInvalid, "UTF-8"),
    (huge_manifest, ArchiveInvalid, "at most"),
    (other_shape, ArchiveInvalid, "5"),
    (empty_weights, ArchiveInvalid, "weights: "),
]


def offer_of(folder):
    """Offer a folder as it is."""
    return UploadOffer(
        manifest_sha256=hashlib.sha256((folder / "model.toml").read_bytes()).hexdigest(),
        sizes={name: (folder / name).stat().st_size for name in FILE_BYTES_MAX},
    )


async def write(upload, file, data, offset=0):
    await upload.write(file, data, offset=offset, crc32=zlib.crc32(data))


async def upload(client, key, folder):
    """Send a folder as it is, whatever `cw model add` would say of it."""
    admin = await client.serving.admin(key)
    sending = await admin.begin_upload(offer_of(folder))
    try:
        for name in FILE_BYTES_MAX:
            await write(sending, name, (folder / name).read_bytes())
        return await sending.commit()
    finally:
        await sending.discard()


@pytest.mark.parametrize(("spoil", "kind", "said"), SPOILERS)
async def test_a_spoilt_archive_is_refused(emulated, archive, spoil, kind, said):
    """Whether damaged or hostile: its owner is told which file is wrong and how."""
    spoil(archive)
    async with connect(emulated.address) as client:
        with pytest.raises(kind) as caught:
            await upload(client, emulated.admin_key, archive)

    assert said in str(caught.value)


@pytest.mark.parametrize("spoil", [truncate, pickle_for_program, no_manifest, traverse_by_name])
def test_the_command_says_the_same(emulated, archive, spoil):
    """`cw model add` is how it will be met: one line, status 1, even with --allow-program."""
    spoil(archive)
    result = emulated.cw("model", "add", "--allow-program", archive)

    assert result.returncode == 1
    assert "cw model: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "", "notes.txt"])
async def test_a_file_that_belongs_to_no_archive(emulated, archive, name):
    """Names are compared, never joined to a path first."""
    async with connect(emulated.address) as client:
        admin = await client.serving.admin(emulated.admin_key)
        sending = await admin.begin_upload(offer_of(archive))
        with pytest.raises(ArchiveInvalid, match="an archive has the files"):
            await write(sending, name, b"x")
        await sending.discard()


async def test_an_upload_without_all_its_files(emulated, archive):
    """A script that forgot one is told which there must be."""
    async with connect(emulated.address) as client:
        admin = await client.serving.admin(emulated.admin_key)
        sending = await admin.begin_upload(offer_of(archive))
        await write(sending, "model.toml", (archive / "model.toml").read_bytes())
        with pytest.raises(ArchiveInvalid, match=r"program\.pt2"):
            await sending.commit()
        await sending.discard()


def test_a_program_that_cannot_be_rebuilt_must_be_allowed(emulated, tmp_path):
    """Executors run it with their own rights: nobody's without the administrator's word."""
    WRITING.pack(tmp_path / "writing")
    added = emulated.cw("model", "add", tmp_path / "writing")
    no_key = subprocess.run(
        [
            *CW,
            "model",
            "add",
            "--connect",
            emulated.address,
            "--allow-program",
            tmp_path / "writing",
        ],
        env=environment(CW_ADMIN_KEY="guess"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert added.returncode == no_key.returncode == 1
    assert "cw model add --allow-program" in added.stderr
    assert "relu_" in added.stderr
    assert "not the administrator's key" in no_key.stderr
    assert "Traceback" not in added.stderr + no_key.stderr


def test_folders_that_are_no_archives(emulated, tmp_path):
    """Mistyped paths are the commonest of all."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "missing", tmp_path / "empty"):
        result = emulated.cw("model", "add", folder)

        assert result.returncode == 1
        assert "model.toml" in result.stderr
        assert "Traceback" not in result.stderr


async def test_an_uploader_that_is_killed_goes_on(emulated, archive):
    """Its next process offers the same archive, and is told how far the first one came."""
    script = f"""
import sys, trio, zlib
from pathlib import Path
from cw.client import connect
from tests.cluster.test_uploads import offer_of, write
async def main():
    folder = Path({str(archive)!r})
    async with connect({emulated.address!r}) as client:
        admin = await client.serving.admin({emulated.admin_key!r})
        sending = await admin.begin_upload(offer_of(folder))
        beginning = (folder / "weights.safetensors").read_bytes()[:999]
        await write(sending, "weights.safetensors", beginning)
        print("half way", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    process = subprocess.Popen(  # noqa: ASYNC220 - milliseconds
        [CW[0], "-c", script], env=environment(), stdout=subprocess.PIPE, text=True
    )
    with process.stdout:
        assert await trio.to_thread.run_sync(process.stdout.readline) == "half way\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    async with connect(emulated.address) as client:
        admin = await client.serving.admin(emulated.admin_key)
        sending = await admin.begin_upload(offer_of(archive))

        assert (await sending.progress())["weights.safetensors"] == 999
        await sending.discard()
