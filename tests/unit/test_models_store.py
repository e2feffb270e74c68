"""The store: a model is there whole or not at all, and only allowed programs get in."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from cw.errors import (
    ArchiveInvalid,
    ManifestInvalid,
    ModelConflict,
    ProgramNotAllowed,
    UnknownModel,
)
from cw.models import store as store_module
from cw.models import whole_files
from cw.models.examples.tiny import MLP
from cw.models.image import WeightsImage
from cw.models.manifest import dump_manifest
from cw.models.pack import pack_weights
from cw.models.store import ModelStore
from tests.writing_model import WRITING


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return MLP.pack(tmp_path_factory.mktemp("packed") / "mlp")


@pytest.fixture(scope="module")
def sibling(packed, tmp_path_factory):
    """Other weights and another name for the same program."""
    out = tmp_path_factory.mktemp("sibling") / "mlp"
    return pack_weights(packed, MLP.build(1).state_dict(), name="sibling", out=out)


@pytest.fixture(scope="module")
def newer(packed, tmp_path_factory):
    """Other weights under the same name."""
    out = tmp_path_factory.mktemp("newer") / "mlp"
    return pack_weights(packed, MLP.build(2).state_dict(), name="tiny-mlp", out=out)


@pytest.fixture
def store(tmp_path, packed):
    made = ModelStore(tmp_path / "store")
    made.prepare()
    made.allow_program(packed.manifest.program_sha256, "tests")
    return made


def place(store, archive):
    """Put an archive where a gateway leaves it for the controller."""
    staged = store.stage()
    for path in archive.folder.iterdir():
        shutil.copyfile(path, staged / path.name)
    return store.place(staged)


def id_of(archive):
    return archive.manifest.to_spec().model_id


def files_of(store):
    return sorted(
        str(path.relative_to(store.root))
        for path in store.root.rglob("*")
        if path.is_file() and path.name != ".lock"
    )


def test_a_model_can_be_added_read_and_mapped(store, packed):
    """The way of every model: archive, store, executor."""
    stored = store.add(packed.folder)

    assert store.models() == (stored,)
    assert store.get("tiny-mlp") == stored
    assert stored.manifest == packed.manifest
    assert stored.program_path.read_bytes() == packed.program_path.read_bytes()
    with WeightsImage(stored.weights_path) as image:
        assert image.layout == packed.layout
    assert packed.program_path.exists()


def test_models_of_one_architecture_share_one_program(store, packed, sibling):
    """A thousand weight sets must not be a thousand programs to load and to profile."""
    first, second = store.add(packed.folder), store.add(sibling.folder)

    assert first.program_path == second.program_path
    assert [name for name in files_of(store) if name.endswith(".pt2")] == [
        f"programs/{packed.manifest.program_sha256}.pt2"
    ]
    assert [model.manifest.name for model in store.models()] == ["sibling", "tiny-mlp"]


def test_adding_the_same_again_changes_nothing(store, packed):
    """A client that lost the answer to an upload sends it again."""
    first = store.add(packed.folder)
    before = files_of(store)

    assert store.add(packed.folder) == first
    assert files_of(store) == before


def test_a_new_version_takes_over_and_the_old_one_stays(store, packed, newer):
    """An executor may be mapping the old weights, and a rollback wants them back."""
    old = store.add(packed.folder)
    new = store.add(newer.folder)

    assert store.get("tiny-mlp") == new
    assert store.version("tiny-mlp", id_of(packed)) == old
    (record,) = store.records()
    assert (record.current, record.previous, len(record.ids)) == (2, 1, 2)


def test_what_is_placed_is_no_version_yet(store, packed, newer):
    """Which one of two that came at once is current is the controller's to say."""
    store.add(packed.folder)
    placed = place(store, newer)

    assert store.get("tiny-mlp").manifest == packed.manifest
    assert store.version("tiny-mlp", id_of(newer)) == placed
    (record,) = store.records()
    store.save_versions(record)
    assert placed.weights_path.exists()


def test_a_version_that_its_record_forgets_is_deleted(store, packed, newer):
    """Old versions take disk; the record says which are kept."""
    old = store.add(packed.folder)
    store.add(newer.folder)
    (record,) = store.records()
    store.save_versions(attrs.evolve(record, ids={2: record.ids[2]}, previous=0))

    assert not old.weights_path.exists()
    with pytest.raises(UnknownModel):
        store.version("tiny-mlp", id_of(packed))


def test_no_record_is_kept_of_what_was_removed(store, packed):
    """A controller that switches while somebody removes must not bring a ghost back."""
    store.add(packed.folder)
    (record,) = store.records()
    store.remove("tiny-mlp")
    with pytest.raises(UnknownModel, match="add it again"):
        store.save_versions(record)

    assert store.records() == ()


def test_another_manifest_for_the_same_contents_is_a_conflict(store, packed, tmp_path):
    """An id means one thing; silently keeping the old manifest would puzzle whoever changed it."""
    store.add(packed.folder)
    changed = tmp_path / "changed"
    shutil.copytree(packed.folder, changed)
    manifest = attrs.evolve(packed.manifest, description="another")
    (changed / "model.toml").write_text(dump_manifest(manifest))
    with pytest.raises(ModelConflict, match="another manifest"):
        store.add(changed)

    assert store.get("tiny-mlp").manifest == packed.manifest


def test_a_record_that_makes_no_sense_is_refused(store, packed):
    """People edit files; serving a guess would be worse than an error."""
    store.add(packed.folder)
    path = store.root / "models" / "tiny-mlp" / "versions.json"
    for text in ("", "[]", "{}", path.read_text().replace('"current": 1', '"current": 7')):
        path.write_text(text)
        with pytest.raises(ArchiveInvalid, match="a record of versions"):
            store.get("tiny-mlp")


def test_a_removed_model_is_gone_but_its_mappings_hold(store, packed, sibling):
    """Removal must not pull weights from under an INFER, nor touch a neighbour."""
    stored = store.add(packed.folder)
    store.add(sibling.folder)
    with WeightsImage(stored.weights_path) as image:
        store.remove("tiny-mlp")
        assert bytes(image.data[:32]) != bytes(32)

    assert [model.manifest.name for model in store.models()] == ["sibling"]
    assert stored.program_path.exists()
    with pytest.raises(UnknownModel):
        store.get("tiny-mlp")
    with pytest.raises(UnknownModel):
        store.remove("tiny-mlp")


@pytest.mark.parametrize("name", ["..", "../models", "a/b", "", ".hidden"])
def test_a_name_that_is_a_path_reaches_nothing(store, name):
    """Names come from clients, and are folders here."""
    for call in (store.get, store.remove):
        with pytest.raises(ManifestInvalid):
            call(name)


def test_a_program_that_nobody_allowed_is_let_in_only_if_it_can_be_rebuilt(tmp_path, packed):
    """What torch would have to load runs as code; so someone must have said that it may."""
    store = ModelStore(tmp_path / "store")
    store.prepare()
    writing = WRITING.pack(tmp_path / "writing")

    with pytest.raises(ProgramNotAllowed, match=r"relu_\.default.*--allow-program"):
        store.add(writing.folder)
    assert files_of(store) == []

    store.add(packed.folder)
    store.allow_program(writing.manifest.program_sha256, "ours")
    store.add(writing.folder)
    assert len(store.models()) == 2


def test_the_allow_list_keeps_comments_and_is_strict(store, packed):
    """People edit this file; a typing error must not silently allow nothing, or anything."""
    sha = packed.manifest.program_sha256
    path = store.root / "programs" / "allowed.txt"
    path.write_text(f"# ours\n\n{sha}  # by hand")

    assert store.allowed_programs() == {sha: "by hand"}
    store.allow_program("0" * 64, "another")
    assert store.allowed_programs() == {sha: "by hand", "0" * 64: "another"}
    assert path.read_text().startswith("# ours\n")
    assert not store.is_allowed("1" * 64)

    path.write_text(sha[:-1])
    with pytest.raises(ArchiveInvalid, match="line 1"):
        store.is_allowed(sha)


def test_a_comment_cannot_smuggle_in_a_line(store):
    """A newline in a comment would allow a second program."""
    with pytest.raises(ValueError, match="a line of at most"):
        store.allow_program("0" * 64, "innocent\n" + "1" * 64)
    with pytest.raises(ManifestInvalid):
        store.allow_program("all", "")


def test_a_bad_archive_leaves_no_trace(store, packed, tmp_path):
    """Uploads fail all the time; the store must not fill up with them."""
    bad = tmp_path / "bad"
    shutil.copytree(packed.folder, bad)
    os.truncate(bad / "weights.safetensors", 4096)
    before = files_of(store)

    with pytest.raises(ArchiveInvalid):
        store.add(bad)
    assert files_of(store) == before
    assert list((store.root / "staging").iterdir()) == []


def test_leftovers_are_cleared_at_the_start(store, packed):
    """A process that was killed in an upload leaves its half; the next one sweeps it out."""
    staged = store.stage()
    (staged / "weights.safetensors").write_bytes(b"half")
    store.add(packed.folder)

    store.prepare()

    assert not staged.exists()
    assert store.get("tiny-mlp").manifest == packed.manifest


class Crash(Exception):
    """Stands for the loss of power at one step."""


@pytest.mark.parametrize("step", range(12))
def test_a_crash_at_any_step_leaves_the_old_model_or_the_new(
    store, packed, newer, monkeypatch, step
):
    """The steps of a commit are in the only order in which this holds."""
    store.add(packed.folder)
    staged = store.stage()
    for path in newer.folder.iterdir():
        shutil.copyfile(path, staged / path.name)
    calls = iter(range(1_000))
    real_sync = whole_files.sync

    def sync(path):
        if next(calls) == step:
            raise Crash
        real_sync(path)

    monkeypatch.setattr(store_module, "sync", sync)
    monkeypatch.setattr(whole_files, "sync", sync)
    try:
        store.commit(staged)
        crashed = False
    except Crash:
        crashed = True
    monkeypatch.undo()
    store.prepare()

    served = store.get("tiny-mlp")
    assert crashed == (step < next(calls))
    assert served.manifest in (packed.manifest, newer.manifest)
    assert crashed or served.manifest == newer.manifest
    with WeightsImage(served.weights_path) as image:
        assert image.layout == packed.layout
    assert store.add(newer.folder).manifest == newer.manifest


def test_many_threads_may_commit_at_once(store, packed, newer, sibling):
    """Uploads end in threads, and several gateways may share a store."""
    folders = [archive.folder for archive in (packed, newer, sibling)] * 4
    with ThreadPoolExecutor(len(folders)) as pool:
        added = list(pool.map(store.add, folders))

    assert [model.manifest.name for model in store.models()] == ["sibling", "tiny-mlp"]
    assert store.get("tiny-mlp") in added
    assert list((store.root / "staging").iterdir()) == []
    assert len({record.name: len(record.ids) for record in store.records()}) == 2


def test_a_profile_has_a_place_for_each_device_and_program(store):
    """Profiles are inherited by every weight set of a program, and by nothing else."""
    path = store.profile_path("NVIDIA-H100", "0" * 64)

    assert path == store.root / "profiles" / "NVIDIA-H100" / f"{'0' * 64}.json"
    assert path.parent.is_dir()
    with pytest.raises(ValueError, match="device kind"):
        store.profile_path("../x", "0" * 64)
