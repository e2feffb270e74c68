"""Sends an archive in chunks, and goes on from where an earlier attempt was cut off."""

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from cw.errors import (
    ArchiveInvalid,
    ChunkDamaged,
    ManifestInvalid,
    ModelConflict,
    ProgramNotAllowed,
)
from cw.messages import ModelSpec, UploadOffer
from cw.models.archive import FILE_BYTES_MAX, MANIFEST_FILE, open_checked
from cw.rpc.ports import AdminPort, UploadPort
from cw.units import MiB

CHUNK_BYTES: Final = 4 * MiB
"""Sent, checked and written as one; what a cut connection can cost."""
_TRIES: Final = 3
"""A chunk that comes damaged is sent again so often: what damages it more often is no accident."""

Advance = Callable[[int], object]
"""Told how many more bytes are there."""


async def send_archive(
    admin: AdminPort, folder: Path, *, hold: bool, resumed: Advance, advance: Advance
) -> ModelSpec:
    """Upload an archive and have it registered.

    Args:
        admin: Lets it in.
        folder: The archive.
        hold: Do not make it current, if the name has a version that is.
        resumed: Told once, of the bytes that an earlier attempt had brought, if there are any.
        advance: Told of each chunk's bytes.

    Raises:
        ArchiveInvalid, ManifestInvalid, ModelConflict, ProgramNotAllowed: It is no model that may
            be served; nothing of it stays in the store.
        ChunkDamaged: A chunk came damaged each time.
        CwError: The connection or the cluster failed; the same call goes on from there.
    """
    upload = await admin.begin_upload(_offer(folder))
    written = await upload.progress()
    if had := sum(written.values()):
        resumed(had)
    try:
        for file in FILE_BYTES_MAX:
            await _send_file(upload, folder / file, written.get(file, 0), advance)
        return await upload.commit(hold=hold)
    except (ArchiveInvalid, ManifestInvalid, ModelConflict, ProgramNotAllowed, ChunkDamaged):
        with trio.CancelScope(shield=True):
            await upload.discard()
        raise


def _offer(folder: Path) -> UploadOffer:
    sizes = {}
    for file in FILE_BYTES_MAX:
        with open_checked(folder / file) as source:  # no links, no pipes
            sizes[file] = source.seek(0, 2)
    with open_checked(folder / MANIFEST_FILE) as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    return UploadOffer(manifest_sha256=digest, sizes=sizes)


async def _send_file(upload: UploadPort, path: Path, offset: int, advance: Advance) -> None:
    with open_checked(path) as source:
        source.seek(offset)
        while chunk := source.read(CHUNK_BYTES):
            await _send_chunk(upload, path.name, chunk, offset)
            offset += len(chunk)
            advance(len(chunk))


async def _send_chunk(upload: UploadPort, file: str, chunk: bytes, offset: int) -> None:
    crc32 = zlib.crc32(chunk)
    for tries_left in reversed(range(_TRIES)):
        try:
            await upload.write(file, chunk, offset=offset, crc32=crc32)
        except ChunkDamaged:
            if tries_left == 0:
                raise
        else:
            return
