"""An archive: the folder that holds one model as data.

``model.toml``, ``program.pt2`` and ``weights.safetensors``, nothing else, no links. An archive
comes from outside; ``verify_archive`` believes none of it and loads none of it: the program is
checked by ``program.py``, the weights by ``image.py``, and all three against one another.

These functions block (90 MB take about 0.1 s to hash): an actor calls them in a thread.
"""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Final

import attrs

from cw.errors import ArchiveInvalid
from cw.models.files import open_regular
from cw.models.image import MAX_FILE_BYTES, ImageLayout, read_layout
from cw.models.manifest import MAX_MANIFEST_BYTES, Manifest, dump_manifest, parse_manifest
from cw.models.program import MAX_PROGRAM_BYTES, check_program
from cw.models.program_signature import (
    ProgramSignature,
    check_manifest,
    check_weights,
    read_signature,
)

MANIFEST_FILE: Final = "model.toml"
PROGRAM_FILE: Final = "program.pt2"
WEIGHTS_FILE: Final = "weights.safetensors"

FILE_BYTES_MAX: Final = {
    MANIFEST_FILE: MAX_MANIFEST_BYTES,
    PROGRAM_FILE: MAX_PROGRAM_BYTES,
    WEIGHTS_FILE: MAX_FILE_BYTES,
}
"""The files of an archive and the most that each may hold; an upload is cut off at that."""


@attrs.frozen(kw_only=True)
class Archive:
    """A verified archive."""

    folder: Path
    manifest: Manifest
    layout: ImageLayout
    signature: ProgramSignature

    @property
    def program_path(self) -> Path:
        """The program, without weights."""
        return self.folder / PROGRAM_FILE

    @property
    def weights_path(self) -> Path:
        """The weights, as an image."""
        return self.folder / WEIGHTS_FILE


def verify_archive(folder: Path) -> Archive:
    """Check a folder, its three files, and that they belong together.

    Args:
        folder: Not changed by anyone else meanwhile (a staged upload, or a user's own folder).

    Raises:
        ArchiveInvalid: Anything is missing, too many, too large, damaged or not data.
        ManifestInvalid: ``model.toml`` is not a manifest.
    """
    _check_names(folder)
    manifest = read_manifest(folder)
    with open_checked(folder / PROGRAM_FILE) as file:
        program = file.read(MAX_PROGRAM_BYTES + 1)
    _check_sha256(PROGRAM_FILE, hashlib.sha256(program).hexdigest(), manifest.program_sha256)
    signature = read_signature(check_program(program))
    check_manifest(signature, manifest)
    with open_checked(folder / WEIGHTS_FILE) as file:
        layout = read_layout(file, os.fstat(file.fileno()).st_size)
        if layout.image_bytes != manifest.image_bytes:
            raise ArchiveInvalid(
                f"{WEIGHTS_FILE}: expected an image of {manifest.image_bytes} bytes, as the "
                f"manifest says, got {layout.image_bytes}"
            )
        # Last, since it is the only check that reads all of the weights.
        check_weights(signature, layout)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _check_sha256(WEIGHTS_FILE, digest, manifest.weights_sha256)
    return Archive(folder=folder, manifest=manifest, layout=layout, signature=signature)


def make_archive(out: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder ``out`` with what ``fill`` writes into it, or leave nothing.

    Raises:
        FileExistsError: ``out`` exists.
        OSError: It cannot be written. What ``fill`` raises is passed on.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: choose another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".packing-") as scratch:
        folder = Path(scratch) / "archive"
        folder.mkdir()
        fill(folder)
        folder.rename(out)


def read_manifest(folder: Path) -> Manifest:
    """Read ``model.toml`` of a folder.

    Raises:
        ArchiveInvalid: The file is missing, too large or a link.
        ManifestInvalid: It is not a manifest.
    """
    with open_checked(folder / MANIFEST_FILE) as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    try:
        return parse_manifest(content.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise ArchiveInvalid(f"{MANIFEST_FILE}: expected UTF-8: {exc}") from exc


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``model.toml`` into a folder that is being made."""
    (folder / MANIFEST_FILE).write_text(dump_manifest(manifest), "utf-8")


def open_checked(path: Path) -> BufferedReader:
    """Open one file of an archive, by the rules of ``files.open_regular``.

    Raises:
        ArchiveInvalid: It is no regular file, cannot be read, or exceeds ``FILE_BYTES_MAX``.
    """
    file, _ = open_regular(path, bytes_max=FILE_BYTES_MAX[path.name])
    return file


def _check_names(folder: Path) -> None:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, 8))
    except OSError as exc:
        raise ArchiveInvalid(f"expected a readable folder: {exc}") from exc
    if names != sorted(FILE_BYTES_MAX):
        raise ArchiveInvalid(
            f"expected the files {', '.join(sorted(FILE_BYTES_MAX))} and no other, "
            f"got {', '.join(names) or 'none'}"
        )


def _check_sha256(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise ArchiveInvalid(
            f"{name}: expected sha256 {expected}, as the manifest says, got {actual}: "
            "the file was changed or damaged after packing"
        )
