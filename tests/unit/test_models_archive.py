"""Archives come from outside: nothing in one may be run, and nothing in one is believed."""

import hashlib
import os
import pickle
import shutil
import zipfile

import attrs
import pytest

from cw.errors import ArchiveInvalid, ManifestInvalid
from cw.models.archive import verify_archive
from cw.models.examples.tiny import MLP
from cw.models.manifest import dump_manifest
from cw.models.program import SAMPLE_INPUTS_MEMBER, write_program


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """One honest archive, which each test copies before it does harm."""
    return MLP.pack(tmp_path_factory.mktemp("packed") / "mlp")


@pytest.fixture
def folder(packed, tmp_path):
    copy = tmp_path / "archive"
    shutil.copytree(packed.folder, copy)
    return copy


@pytest.fixture(scope="module")
def members(packed):
    with zipfile.ZipFile(packed.program_path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def replace_program(folder, packed, program: bytes) -> None:
    """Swap the program, and have the manifest vouch for the new one."""
    (folder / "program.pt2").write_bytes(program)
    digest = hashlib.sha256(program).hexdigest()
    manifest = attrs.evolve(packed.manifest, program_sha256=digest)
    (folder / "model.toml").write_text(dump_manifest(manifest))


class Evil:
    """Would run code where it is unpickled."""

    def __reduce__(self):
        return (os.abort, ())


def test_an_honest_archive_is_accepted(folder, packed):
    """All else in this file is worth nothing if everything is refused."""
    archive = verify_archive(folder)

    assert attrs.evolve(archive, folder=packed.folder) == packed
    assert [weight.name for weight in archive.signature.weights] == list(archive.layout.tensors)


def test_a_signature_names_weights_and_inputs_in_order(packed):
    """Executors bind the flat arguments of a program by this list."""
    described = [(arg.name, arg.shape, arg.is_weight) for arg in packed.signature.arguments]

    assert described == [
        ("hidden.weight", (8, 4), True),
        ("hidden.bias", (8,), True),
        ("head.weight", (3, 8), True),
        ("head.bias", (3,), True),
        ("features", (4,), False),
    ]
    assert [(output.datatype, output.shape) for output in packed.signature.outputs] == [
        ("FP32", (3,))
    ]
    assert packed.signature.batch_max == 4


@pytest.mark.parametrize("name", ["model.toml", "program.pt2", "weights.safetensors"])
def test_a_missing_file_a_link_a_folder_or_a_pipe_is_refused(folder, name):
    """Links show other files, pipes never end; neither is ever opened for its contents."""
    (folder / name).rename(folder.parent / "moved")
    with pytest.raises(ArchiveInvalid, match="expected the files"):
        verify_archive(folder)

    (folder / name).symlink_to(folder.parent / "moved")
    with pytest.raises(ArchiveInvalid, match="no link"):
        verify_archive(folder)

    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ArchiveInvalid, match=f"{name}: expected a re"):
        verify_archive(folder)

    (folder / name).rmdir()
    os.mkfifo(folder / name)
    with pytest.raises(ArchiveInvalid, match="expected a regular file"):
        verify_archive(folder)


def test_a_further_file_is_refused(folder):
    """What nobody checks must not come along, be it only a pickle that some tool would read."""
    (folder / "weights.pkl").write_bytes(b"")

    with pytest.raises(ArchiveInvalid, match=r"and no other, got .*weights\.pkl"):
        verify_archive(folder)


def test_no_folder_is_refused(tmp_path):
    """A wrong path on the command line gets the same kind of answer as a wrong archive."""
    with pytest.raises(ArchiveInvalid, match="readable folder"):
        verify_archive(tmp_path / "none")


def test_an_oversized_file_is_refused_unread(folder):
    """A sparse file of a terabyte costs its sender nothing and a reader everything."""
    os.truncate(folder / "program.pt2", 1 << 40)

    with pytest.raises(ArchiveInvalid, match=r"program\.pt2: expected a regular file of at most"):
        verify_archive(folder)


def test_a_changed_weight_is_noticed(folder):
    """One flipped bit in storage would be a wrong answer, forever, and nobody would know."""
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-4000] ^= 1
    path.write_bytes(content)

    with pytest.raises(ArchiveInvalid, match=r"weights\.safetensors: expected sha256"):
        verify_archive(folder)


def test_truncated_weights_are_noticed(folder):
    """An upload that broke off is the commonest damage of all."""
    os.truncate(folder / "weights.safetensors", 4096)

    with pytest.raises(ArchiveInvalid, match="bytes of data, got 0"):
        verify_archive(folder)


def test_a_changed_program_is_noticed(folder):
    """The manifest's hash is what the allow-list is asked about: it must be the file's."""
    with (folder / "program.pt2").open("ab") as file:
        file.write(b"\0")

    with pytest.raises(ArchiveInvalid, match=r"program\.pt2: expected sha256"):
        verify_archive(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image_bytes": 8192}, "expected an image of 8192"),
        ({"batch_sizes": (1, 2, 8)}, "exported for up to 4"),
        ({"inputs": MLP.inputs * 1 + (attrs.evolve(MLP.inputs[0], name="b"),)}, "its inputs are"),
        ({"inputs": (attrs.evolve(MLP.inputs[0], shape=(5,)),)}, "its inputs are"),
        ({"outputs": (attrs.evolve(MLP.inputs[0], shape=(4,)),)}, "its outputs are"),
    ],
)
def test_a_manifest_that_promises_something_else_is_refused(folder, packed, change, complaint):
    """Gateways check requests by the manifest; the executor would fail on what they let in."""
    manifest = attrs.evolve(packed.manifest, **change)
    (folder / "model.toml").write_text(dump_manifest(manifest))

    with pytest.raises(ArchiveInvalid, match=complaint):
        verify_archive(folder)


def test_a_manifest_that_is_no_text_is_refused(folder):
    """Bytes that are not UTF-8 must not end in a UnicodeDecodeError at the server."""
    (folder / "model.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ArchiveInvalid, match="UTF-8"):
        verify_archive(folder)

    (folder / "model.toml").write_text("name = 3")
    with pytest.raises(ManifestInvalid):
        verify_archive(folder)


def test_a_pickle_for_sample_inputs_is_refused_and_not_run(folder, packed, members):
    """torch would unpickle it, whatever it is: this is code that runs at load.

    Source: ``deserialize_torch_artifact`` falls back to ``weights_only=False``.
    """
    program = write_program({**members, SAMPLE_INPUTS_MEMBER: pickle.dumps(Evil())})
    replace_program(folder, packed, program)

    with pytest.raises(ArchiveInvalid, match="sample inputs and other formats are not accepted"):
        verify_archive(folder)
