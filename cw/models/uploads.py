"""``PartialUploads``: archives on their way into the store, which outlive whoever receives them.

::

    staging/<token>.json             the owner, and how large each file will be
    staging/<token>/                 the files, as far as they have come

How far an upload has come is how long its files are: nothing else is kept, so nothing can disagree
with it after a crash. Bytes are written once their checksum was found right, always at the end of
what is there; so what is there is a right beginning, whenever whoever wrote it was killed. (After a
loss of power it may not be: the hashes in the manifest find that out at the commit.)

The token is derived from the owner and the offer. So who offers the same archive again is given the
same upload, and need not remember a token; and two clients that send one archive at once help one
another. All functions block on the file system: an actor calls them in a thread.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from cw.errors import (
    ArchiveInvalid,
    ChunkDamaged,
    ChunkOutOfOrder,
    OutboxFull,
    StoreFull,
    UnknownUpload,
)
from cw.messages import UploadOffer
from cw.models.archive import FILE_BYTES_MAX
from cw.units import format_bytes, format_ms

UPLOAD_NAME: Final = re.compile(r"[0-9a-f]{32}(\.json)?")
"""What belongs to an upload in the staging folder; all else there is garbage after a restart."""

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOCK_FILE: Final = ".uploads.lock"


@attrs.frozen(kw_only=True)
class UploadLimits:
    """Bounds on what is half there; `GatewaySettings` says how large and why."""

    max_bytes: int
    """Of one upload."""
    max_open: int
    """Uploads of one owner."""
    max_open_bytes: int
    """Of all of them, as they will be when complete."""
    keep_ns: int
    """From an upload's last byte until it is swept away."""


@attrs.frozen(kw_only=True)
class PartialUpload:
    """An upload that was begun."""

    token: str
    owner: str
    sizes: Mapping[str, int]
    """Bytes that each file will have."""
    folder: Path


class PartialUploads:
    """The uploads in one store's staging folder; shared by all gateways of the store."""

    def __init__(self, store_root: Path, limits: UploadLimits) -> None:
        """Name the folder; nothing is read or made."""
        self.limits = limits
        self._staging: Final = store_root / "staging"
        self._lock_path: Final = store_root / _LOCK_FILE

    def begin(self, owner: str, offer: UploadOffer) -> PartialUpload:
        """Begin an upload, or find the one that this owner began with the same offer.

        Args:
            owner: Whose it is; nobody else can go on with it.
            offer: What is coming.

        Raises:
            ArchiveInvalid: The offer is not one of an archive, or is too large.
            OutboxFull: This owner has too many uploads open, or too large ones.
            StoreFull: The disk has no room for it.
        """
        self._check(offer)
        upload = self._upload(_token(owner, offer), owner, dict(offer.sizes))
        with self._exclusive():
            if self._record(upload.token).exists():
                upload.folder.mkdir(exist_ok=True)
                return upload
            self._check_room(owner, sum(offer.sizes.values()))
            record = json.dumps({"owner": owner, "sizes": upload.sizes})
            try:
                upload.folder.mkdir(exist_ok=True)
                draft = self._staging / f"draft-{upload.token}"
                draft.write_text(record, "utf-8")
                os.replace(draft, self._record(upload.token))
            except OSError as exc:
                self.discard(upload)
                raise _renamed(exc) from exc
        return upload

    def resume(self, owner: str, token: str) -> PartialUpload:
        """Find an upload by its token.

        Raises:
            UnknownUpload: There is none, or it is somebody else's: the two are not told apart.
        """
        upload = self._read(token) if _TOKEN.fullmatch(token) else None
        if upload is None or upload.owner != owner:
            raise UnknownUpload(
                "no upload of yours has this token: it was completed, discarded, or swept away "
                f"{format_ms(self.limits.keep_ns)} after its last byte; begin it anew"
            )
        return upload

    def written(self, upload: PartialUpload) -> dict[str, int]:
        """Say how many bytes of each file are there."""
        return {name: _size(upload.folder / name) for name in upload.sizes}

    def write(
        self, upload: PartialUpload, file: str, data: bytes, *, offset: int, crc32: int
    ) -> None:
        """Put a chunk behind what is there; what is there already is not written again.

        Args:
            upload: It.
            file: One of the archive's files.
            data: The chunk.
            offset: Where in the file it belongs.
            crc32: Of the chunk, as its sender computed it.

        Raises:
            ArchiveInvalid: No such file, or more bytes than were offered.
            ChunkDamaged: The checksum is not that of the chunk: send it again.
            ChunkOutOfOrder: Bytes before it are missing.
            UnknownUpload: It has ended.
            StoreFull: The disk is full; the whole upload is gone.
        """
        size = upload.sizes.get(file)
        if size is None:
            raise _no_such_file(file)
        if offset < 0 or offset + len(data) > size:
            raise ArchiveInvalid(
                f"{file} was offered with {size} bytes, got {len(data)} at byte {offset}; discard "
                "this upload and begin another"
            )
        actual = zlib.crc32(data)
        if actual != crc32:
            raise ChunkDamaged(
                f"{file}, bytes {offset} to {offset + len(data)}: expected crc32 {crc32:08x}, got "
                f"{actual:08x}; send it again"
            )
        if not self._record(upload.token).exists():
            raise UnknownUpload("this upload has ended; begin another")
        try:
            _append(upload.folder / file, data, offset)
        except FileNotFoundError as exc:
            raise UnknownUpload("this upload has ended; begin another") from exc
        except OSError as exc:
            self.discard(upload)
            raise _renamed(exc) from exc

    @contextmanager
    def completing(self, upload: PartialUpload) -> Iterator[Path]:
        """Lend the folder of a complete upload to whoever commits it; ended when used up.

        Raises:
            ArchiveInvalid: Bytes are missing, or somebody else is committing it.
            UnknownUpload: It has ended.
        """
        try:
            descriptor = os.open(self._record(upload.token), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise UnknownUpload("this upload has ended; begin another") from exc
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise ArchiveInvalid("this upload is being committed already; wait") from exc
            written = self.written(upload)
            for name, size in upload.sizes.items():
                if written[name] != size:
                    raise ArchiveInvalid(
                        f"{name}: expected {size} bytes, got {written[name]}; send the rest first"
                    )
            yield upload.folder
            if not upload.folder.exists():
                self.discard(upload)
        finally:
            os.close(descriptor)

    def discard(self, upload: PartialUpload) -> None:
        """Throw an upload away; harmless if it has ended."""
        # The record first: without it nothing is written any more.
        self._record(upload.token).unlink(missing_ok=True)
        shutil.rmtree(upload.folder, ignore_errors=True)

    def sweep(self, *, wall_ns: int) -> int:
        """Throw away uploads of which nothing has come for `keep_ns`; return how many.

        Args:
            wall_ns: Now, in nanoseconds since 1970: the clock of the files' times.
        """
        swept = 0
        with self._exclusive():
            for upload in self._all():
                if wall_ns - self._touched_ns(upload) > self.limits.keep_ns:
                    self.discard(upload)
                    swept += 1
        return swept

    # --- inside

    def _check(self, offer: UploadOffer) -> None:
        for name, size in offer.sizes.items():
            bound = FILE_BYTES_MAX.get(name)
            if bound is None:
                raise _no_such_file(name)
            if not 0 <= size <= bound:
                raise ArchiveInvalid(
                    f"{name} may have at most {format_bytes(bound)}, got an offer of {size} bytes"
                )
        missing = ", ".join(name for name in FILE_BYTES_MAX if name not in offer.sizes)
        if missing or not _SHA256.fullmatch(offer.manifest_sha256):
            raise ArchiveInvalid(
                f"expected the sha256 of model.toml and the sizes of {', '.join(FILE_BYTES_MAX)}"
                + (f"; missing: {missing}" if missing else "")
            )
        total = sum(offer.sizes.values())
        if total > self.limits.max_bytes:
            raise ArchiveInvalid(
                f"an upload may have at most {format_bytes(self.limits.max_bytes)} (max_upload of "
                f"the gateway's settings), got an offer of {format_bytes(total)}"
            )

    def _check_room(self, owner: str, size_bytes: int) -> None:
        mine = [upload for upload in self._all() if upload.owner == owner]
        open_bytes = sum(sum(upload.sizes.values()) for upload in mine)
        limits = self.limits
        if len(mine) >= limits.max_open or open_bytes + size_bytes > limits.max_open_bytes:
            raise OutboxFull(
                f"{len(mine)} uploads are open ({format_bytes(open_bytes)} when complete); the "
                f"bounds are {limits.max_open} and {format_bytes(limits.max_open_bytes)}: finish "
                "or discard one first"
            )
        free = shutil.disk_usage(self._staging).free
        promised = sum(
            sum(upload.sizes.values()) - sum(self.written(upload).values())
            for upload in self._all()
        )
        if promised + size_bytes > free:
            raise StoreFull(
                f"the store's disk has {format_bytes(free)} free, of which uploads that are open "
                f"take {format_bytes(promised)}; this one needs {format_bytes(size_bytes)}: remove "
                "models, or make the disk larger"
            )

    def _all(self) -> Iterator[PartialUpload]:
        for path in sorted(self._staging.glob("*.json")):
            upload = self._read(path.stem)
            if upload is not None:
                yield upload

    def _read(self, token: str) -> PartialUpload | None:
        try:
            record = json.loads(self._record(token).read_text("utf-8"))
            return self._upload(token, record["owner"], record["sizes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _upload(self, token: str, owner: str, sizes: dict[str, int]) -> PartialUpload:
        return PartialUpload(token=token, owner=owner, sizes=sizes, folder=self._staging / token)

    def _record(self, token: str) -> Path:
        return self._staging / f"{token}.json"

    def _touched_ns(self, upload: PartialUpload) -> int:
        paths = (self._record(upload.token), *upload.folder.glob("*"))
        times = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # committed or discarded meanwhile
                times.append(path.stat().st_mtime_ns)
        return max(times, default=0)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Count and add uploads one at a time, in all gateways of the store."""
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _token(owner: str, offer: UploadOffer) -> str:
    """Name an upload: 32 hex digits."""
    sizes = sorted(offer.sizes.items())
    named = json.dumps([owner, offer.manifest_sha256, sizes])
    return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()


def _append(path: Path, data: bytes, offset: int) -> None:
    """Write what a file does not have yet of a chunk; others may be writing the same one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        have = os.fstat(descriptor).st_size
        if offset > have:
            raise ChunkOutOfOrder(
                f"{path.name}: expected the chunk at byte {have} or before, got one at {offset}; "
                "ask how far the upload came, and go on from there"
            )
        rest = memoryview(data)[have - offset :]
        while rest:
            done = os.pwrite(descriptor, rest, have)
            have, rest = have + done, rest[done:]
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _no_such_file(name: str) -> ArchiveInvalid:
    names = ", ".join(FILE_BYTES_MAX)
    return ArchiveInvalid(f"an archive has the files {names}; got {name[:128]!r}")


def _renamed(exc: OSError) -> OSError | StoreFull:
    """Tell a full disk from one that is broken."""
    if exc.errno not in _DISK_FULL:
        return exc
    return StoreFull(
        f"the store's disk is full ({exc.strerror}): the upload was thrown away; remove models, or "
        "make the disk larger, and begin it anew"
    )
