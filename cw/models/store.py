"""``ModelStore``: the folder where registered models live.

::

    programs/<sha256>.pt2            shared by all models of one architecture
    programs/allowed.txt             the programs that torch may load, one sha256 a line
    models/<name>/current            the version that is served
    models/<name>/<version>/         model.toml and weights.safetensors, never changed
    profiles/<device>/<sha256>.json  what was measured of a program on a kind of device
    staging/                         archives that are not yet, or no longer, models

A model appears, changes and disappears by one rename each, after its files have reached the
disk: a crash at any point leaves the old state or the new one, and garbage only in ``staging``.
One process calls ``prepare``, at its start; any number may then write and read.

All functions block on the file system: an actor calls them in a thread.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from cw.errors import ArchiveInvalid, ProgramNotAllowed, UnknownModel
from cw.models.archive import (
    FILE_BYTES_MAX,
    MANIFEST_FILE,
    PROGRAM_FILE,
    WEIGHTS_FILE,
    open_checked,
    read_manifest,
    verify_archive,
)
from cw.models.manifest import Manifest, check_name, check_sha256
from cw.models.program import check_program
from cw.models.safe_graph import read_safe_graph

_CURRENT_FILE: Final = "current"
_ALLOWED_FILE: Final = "allowed.txt"
_LOCK_FILE: Final = ".lock"
_FOLDERS: Final = ("programs", "models", "profiles", "staging")
_VERSION: Final = re.compile(r"[0-9a-f]{16}")
_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_COMMENT_CHARS_MAX: Final = 200


@attrs.frozen(kw_only=True)
class StoredModel:
    """One version of a model in the store.

    Attributes:
        manifest: As it was packed.
        version: 16 hex digits over the manifest, which holds the hashes of the rest.
        program_path: Shared with other models.
        weights_path: The image; map it with ``image.WeightsImage``.
    """

    manifest: Manifest
    version: str
    program_path: Path
    weights_path: Path


class ModelStore:
    """The models under one folder."""

    def __init__(self, root: Path) -> None:
        """Name the store; nothing is read or made."""
        self.root: Final = root
        self._programs: Final = root / "programs"
        self._models: Final = root / "models"
        self._profiles: Final = root / "profiles"
        self._staging: Final = root / "staging"

    def prepare(self) -> None:
        """Make the folders and clear ``staging``, which ends uploads that are still open there."""
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for leftover in self._staging.iterdir():
            _delete(leftover)

    # --- models

    def stage(self) -> Path:
        """Make an empty folder for an upload. Commit it, or ``discard`` it."""
        folder = self._staging / secrets.token_hex(8)
        folder.mkdir()
        return folder

    def discard(self, staged: Path) -> None:
        """Throw a staged folder away."""
        assert staged.parent == self._staging, f"not staged here: {staged}"
        _delete(staged)

    def add(self, folder: Path) -> StoredModel:
        """Copy an archive into the store and commit it; ``folder`` is left as it is.

        Raises:
            ArchiveInvalid, ManifestInvalid, ProgramNotAllowed: As ``commit``.
        """
        staged = self.stage()
        try:
            for name in FILE_BYTES_MAX:
                with open_checked(folder / name) as source, (staged / name).open("xb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
            return self.commit(staged)
        finally:
            _delete(staged)

    def commit(self, staged: Path) -> StoredModel:
        """Verify a staged archive and make it the current version of its model.

        Committing the same contents again changes nothing. Older versions stay until ``prune``.

        Args:
            staged: From ``stage``, with the three files of an archive in it. Used up.

        Raises:
            ArchiveInvalid, ManifestInvalid: It is not what it says.
            ProgramNotAllowed: Nobody has allowed its program, and it can't do without.
        """
        assert staged.parent == self._staging, f"not staged here: {staged}"
        manifest = verify_archive(staged).manifest
        if not self.is_allowed(manifest.program_sha256):
            self._check_safe(staged, manifest)
        for name in FILE_BYTES_MAX:
            _sync(staged / name)
        with self._writing():
            version = self._move_in(staged, manifest)
        return self._read(manifest.name, version)

    def _check_safe(self, staged: Path, manifest: Manifest) -> None:
        """Let a program in that nobody vouches for, if executors can rebuild it from its data."""
        program = (staged / PROGRAM_FILE).read_bytes()
        try:
            read_safe_graph(check_program(program))
        except ArchiveInvalid as exc:
            raise ProgramNotAllowed(
                f"program {manifest.program_sha256} of model {manifest.name!r} is not on the "
                f"allow-list, and can't be run without: {exc}. If you trust who made it: "
                "'cw model add --allow-program'"
            ) from exc

    def get(self, name: str) -> StoredModel:
        """Return the current version of a model.

        Raises:
            UnknownModel: There is none.
            ArchiveInvalid, ManifestInvalid: The store was changed by hand, or the disk is bad.
        """
        version = self._current_version(check_name(name))
        if version is None:
            raise UnknownModel(f"no model {name!r} in the store at {self.root}")
        return self._read(name, version)

    def models(self) -> tuple[StoredModel, ...]:
        """Return the current version of every model, by name."""
        current = ((name, self._current_version(name)) for name in sorted(os.listdir(self._models)))
        return tuple(self._read(name, version) for name, version in current if version)

    def remove(self, name: str) -> None:
        """Remove a model with all its versions; programs and profiles stay.

        Mappings of its weights that are open stay valid until they are closed.

        Raises:
            UnknownModel: There is none.
        """
        grave = self._staging / secrets.token_hex(8)
        with self._writing():
            if self._current_version(check_name(name)) is None:
                raise UnknownModel(f"no model {name!r} in the store at {self.root}")
            (self._models / name).rename(grave)
            _sync(self._models)
        _delete(grave)

    def prune(self, name: str) -> int:
        """Delete the versions of a model that are not current; return how many there were."""
        keep = self.get(name).version
        old = [
            path
            for path in (self._models / name).iterdir()
            if _VERSION.fullmatch(path.name) and path.name != keep
        ]
        for path in old:
            _delete(path)
        return len(old)

    # --- programs and profiles

    def program_path(self, program_sha256: str) -> Path:
        """Say where a program lies, whether it is there or not."""
        return self._programs / f"{check_sha256(program_sha256, 'program_sha256')}.pt2"

    def profile_path(self, device: str, program_sha256: str) -> Path:
        """Say where the profile of a program on a kind of device lies; its folder is made.

        Raises:
            ValueError: ``device`` cannot be a folder's name.
        """
        if not _DEVICE.fullmatch(device):
            raise ValueError(f"expected a device kind like {_DEVICE.pattern}, got {device!r}")
        folder = self._profiles / device
        folder.mkdir(exist_ok=True)
        return folder / f"{check_sha256(program_sha256, 'program_sha256')}.json"

    def allowed_programs(self) -> Mapping[str, str]:
        """Return the allow-list: sha256 -> comment.

        Raises:
            ArchiveInvalid: A line is neither empty, a comment, nor a sha256 and a comment.
        """
        path = self._programs / _ALLOWED_FILE
        allowed: dict[str, str] = {}
        if not path.exists():
            return allowed
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            digest, _, comment = line.partition("#")
            if not digest.strip():
                continue
            if not re.fullmatch(r"[0-9a-f]{64}", digest.strip()):
                raise ArchiveInvalid(
                    f"{path}, line {number}: expected `<sha256>  # comment`, got {line[:200]!r}"
                )
            allowed[digest.strip()] = comment.strip()
        return allowed

    def is_allowed(self, program_sha256: str) -> bool:
        """Say whether torch may load a program. Executors rebuild all others from their data."""
        return program_sha256 in self.allowed_programs()

    def allow_program(self, program_sha256: str, comment: str) -> None:
        """Add a program to the allow-list: from now on executors may run what it says.

        Args:
            program_sha256: Of the whole ``program.pt2``.
            comment: Who allowed it and why, in one line.
        """
        check_sha256(program_sha256, "program_sha256")
        if not comment.isprintable() or len(comment) > _COMMENT_CHARS_MAX:
            raise ValueError(f"expected a line of at most {_COMMENT_CHARS_MAX} characters")
        with self._writing():
            if self.is_allowed(program_sha256):
                return
            path = self._programs / _ALLOWED_FILE
            before = path.read_text("utf-8") if path.exists() else ""
            if before and not before.endswith("\n"):
                before += "\n"
            _write_whole(path, f"{before}{program_sha256}  # {comment}\n", self._staging)

    # --- inside

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep other writers out: threads of this process, and other gateways' processes.

        The kernel lets go of the lock when its holder dies, so no crash leaves it behind.
        """
        descriptor = os.open(self.root / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _move_in(self, staged: Path, manifest: Manifest) -> str:
        """Put a verified archive, which is on the disk, in its places; return its version."""
        os.replace(staged / PROGRAM_FILE, self.program_path(manifest.program_sha256))
        _sync(staged)
        _sync(self._programs)
        version = hashlib.sha256((staged / MANIFEST_FILE).read_bytes()).hexdigest()[:16]
        home = self._models / manifest.name
        if not home.exists():
            home.mkdir()
            _sync(self._models)
        if (home / version).exists():
            _delete(staged)
        else:
            staged.rename(home / version)
            _sync(home)
        _write_whole(home / _CURRENT_FILE, f"{version}\n", self._staging)
        return version

    def _current_version(self, name: str) -> str | None:
        path = self._models / name / _CURRENT_FILE
        # Missing: no such model, or a first commit that crashed before its last step.
        if not path.exists():
            return None
        version = path.read_text("utf-8").strip()
        if not _VERSION.fullmatch(version):
            raise ArchiveInvalid(f"{path}: expected 16 hex digits, got {version[:80]!r}")
        return version

    def _read(self, name: str, version: str) -> StoredModel:
        folder = self._models / name / version
        manifest = read_manifest(folder)
        if manifest.name != name:
            raise ArchiveInvalid(f"{folder}: expected model {name!r}, got {manifest.name!r}")
        return StoredModel(
            manifest=manifest,
            version=version,
            program_path=self.program_path(manifest.program_sha256),
            weights_path=folder / WEIGHTS_FILE,
        )


def _write_whole(path: Path, text: str, staging: Path) -> None:
    """Replace a small file so that a reader sees the old text or the new, never a part."""
    draft = staging / secrets.token_hex(8)
    draft.write_text(text, "utf-8")
    _sync(draft)
    os.replace(draft, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
