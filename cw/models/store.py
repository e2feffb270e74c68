"""``ModelStore``: the folder where registered models live.

::

    programs/<sha256>.pt2            shared by all models of one architecture
    programs/allowed.txt             the programs that torch may load, one sha256 a line
    models/<name>/versions.json      which versions there are, and what each is for
    models/<name>/<model id>/        a version: model.toml and weights.safetensors, never changed
    profiles/<device>/<sha256>.json  what was measured of a program on a kind of device
    staging/                         archives that are not yet, or no longer, models: uploads.py

A model appears, changes and disappears by one rename each, after its files have reached the
disk: a crash at any point leaves the old state or the new one, and garbage only in ``staging``.
One process calls ``prepare``, at its start; any number may then write and read.

All functions block on the file system: an actor calls them in a thread.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from cw.core.versions import ModelVersions
from cw.errors import ArchiveInvalid, ModelConflict, ProgramNotAllowed, UnknownModel
from cw.messages import ModelId, ModelSpec
from cw.models.archive import (
    FILE_BYTES_MAX,
    PROGRAM_FILE,
    WEIGHTS_FILE,
    open_checked,
    read_manifest,
    verify_archive,
)
from cw.models.manifest import Manifest, check_name, check_sha256
from cw.models.program import check_program
from cw.models.safe_graph import read_safe_graph
from cw.models.uploads import UPLOAD_NAME
from cw.models.version_records import VersionRecords
from cw.models.whole_files import sync, write_whole

_ALLOWED_FILE: Final = "allowed.txt"
_LOCK_FILE: Final = ".lock"
_FOLDERS: Final = ("programs", "models", "profiles", "staging")
_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_COMMENT_CHARS_MAX: Final = 200


@attrs.frozen(kw_only=True)
class StoredModel:
    """One version of a model in the store.

    Attributes:
        manifest: As it was packed.
        program_path: Shared with other models.
        weights_path: The image; map it with ``image.WeightsImage``.
    """

    manifest: Manifest
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
        self._records: Final = VersionRecords(self._models, self._staging)

    def prepare(self) -> None:
        """Make the folders and clear ``staging`` of all but uploads, which may be gone on with."""
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for leftover in self._staging.iterdir():
            if not UPLOAD_NAME.fullmatch(leftover.name):
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

    def place(self, staged: Path) -> StoredModel:
        """Verify a staged archive and put it in its place, where nobody looks yet.

        It is a version once `save_versions` names it, which only the controller may have done: two
        gateways that place two versions at once leave it to decide what is current.

        Args:
            staged: From ``stage`` or an upload's, with the three files of an archive. Used up.

        Raises:
            ArchiveInvalid, ManifestInvalid: It is not what it says.
            ModelConflict: Its program and weights are there with another manifest.
            ProgramNotAllowed: Nobody has allowed its program, and it can't do without.
        """
        assert staged.parent == self._staging, f"not staged here: {staged}"
        manifest = verify_archive(staged).manifest
        if not self.is_allowed(manifest.program_sha256):
            self._check_safe(staged, manifest)
        for name in FILE_BYTES_MAX:
            sync(staged / name)
        with self._writing():
            self._move_in(staged, manifest)
        return self.version(manifest.name, manifest.to_spec().model_id)

    def commit(self, staged: Path) -> StoredModel:
        """Place an archive and make it current at once: for a store without a controller.

        Args:
            staged: As ``place``.

        Raises:
            ArchiveInvalid, ManifestInvalid, ModelConflict, ProgramNotAllowed: As ``place``.
        """
        stored = self.place(staged)
        name, model_id = stored.manifest.name, stored.manifest.to_spec().model_id
        with self._writing():
            record = self._records.read(name) or ModelVersions(name=name)
            record = record.added(model_id, hold=False)
            number = record.number_of(model_id)
            assert number is not None
            self._records.write(record.ready(number))
        return self.version(name, model_id)

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
        record = self._records.read(check_name(name))
        if record is None:
            raise UnknownModel(f"no model {name!r} in the store at {self.root}")
        return self.version(name, record.ids[record.current])

    def version(self, name: str, model_id: ModelId) -> StoredModel:
        """Return a version of a model, by its contents.

        Raises:
            UnknownModel: It is not in the store.
            ArchiveInvalid, ManifestInvalid: The store was changed by hand, or the disk is bad.
        """
        folder = self._models / check_name(name) / version_folder(model_id)
        if not folder.is_dir():
            raise UnknownModel(
                f"the store at {self.root} has no version of model {name!r} with the contents of "
                f"id {model_id}: it was removed; add it again"
            )
        return self._read(name, folder)

    def models(self) -> tuple[StoredModel, ...]:
        """Return the current version of every model, by name."""
        return tuple(self.get(record.name) for record in self.records())

    def records(self) -> tuple[ModelVersions, ...]:
        """Return what is known of every model's versions, by name."""
        records = (self._records.read(name) for name in sorted(os.listdir(self._models)))
        return tuple(record for record in records if record is not None)

    def in_service(self, record: ModelVersions) -> tuple[ModelSpec, ...]:
        """Return the specifications of the versions that executors should have."""
        return tuple(
            attrs.evolve(self.spec_of(record.name, record.ids[number]), version=number)
            for number in record.in_service
        )

    def spec_of(self, name: str, model_id: ModelId) -> ModelSpec:
        """See `VersionFiles.spec_of`."""
        return self.version(name, model_id).manifest.to_spec()

    def save_versions(self, record: ModelVersions) -> None:
        """Write a record down, then delete what it does not name any more.

        Versions that were placed and of which no record has heard yet stay.

        Raises:
            UnknownModel: The model was removed meanwhile.
        """
        home = self._models / record.name
        with self._writing():
            before = self._records.read(record.name)
            if before is not None and before.next_number > record.next_number:
                raise UnknownModel(f"model {record.name!r} was changed by another controller")
            for number in record.in_service:
                if not (home / version_folder(record.ids[number])).is_dir():
                    raise UnknownModel(
                        f"version {number} of {record.name!r} was removed meanwhile; add it again"
                    )
            self._records.write(record)
        gone = set(before.ids.values()) - set(record.ids.values()) if before else set()
        for model_id in gone:
            _delete(home / version_folder(model_id))

    def remove(self, name: str) -> None:
        """Remove a model with all its versions; programs and profiles stay.

        Mappings of its weights that are open stay valid until they are closed.

        Raises:
            UnknownModel: There is none.
        """
        grave = self._staging / secrets.token_hex(8)
        with self._writing():
            if self._records.read(check_name(name)) is None:
                raise UnknownModel(f"no model {name!r} in the store at {self.root}")
            (self._models / name).rename(grave)
            sync(self._models)
        _delete(grave)

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
            write_whole(path, f"{before}{program_sha256}  # {comment}\n", self._staging)

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

    def _move_in(self, staged: Path, manifest: Manifest) -> None:
        """Put a verified archive, which is on the disk, in its places."""
        home = self._models / manifest.name
        place = home / version_folder(manifest.to_spec().model_id)
        if place.exists() and read_manifest(place) != manifest:
            raise ModelConflict(
                f"model {manifest.name!r} has a version with the same program and weights, and "
                "another manifest; remove the model first to change only that"
            )
        os.replace(staged / PROGRAM_FILE, self.program_path(manifest.program_sha256))
        sync(staged)
        sync(self._programs)
        if not home.exists():
            home.mkdir()
            sync(self._models)
        if place.exists():
            _delete(staged)
        else:
            staged.rename(place)
            sync(home)

    def _read(self, name: str, folder: Path) -> StoredModel:
        manifest = read_manifest(folder)
        if manifest.name != name or version_folder(manifest.to_spec().model_id) != folder.name:
            raise ArchiveInvalid(
                f"{folder}: expected model {name!r} with the contents that the folder is named "
                f"for, got {manifest.name!r} with others: the store was changed by hand"
            )
        return StoredModel(
            manifest=manifest,
            program_path=self.program_path(manifest.program_sha256),
            weights_path=folder / WEIGHTS_FILE,
        )


def version_folder(model_id: ModelId) -> str:
    """Name the folder of a version: 16 hex digits."""
    return f"{model_id:016x}"


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
