"""Archives come from outside: nothing in one may be run, and nothing in one is believed."""

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.errors import ArchiveInvalid, ManifestInvalid
from cw.models.archive import verify_archive
from cw.models.examples.tiny import MLP
from cw.models.manifest import dump_manifest
from cw.models.program import (
    MODEL_MEMBER,
    SAMPLE_INPUTS_MEMBER,
    WEIGHTS_CONFIG_MEMBER,
    check_program,
    write_program,
)
from cw.models.program_signature import read_signature


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


@pytest.fixture(scope="module")
def graph(members):
    return json.loads(members[MODEL_MEMBER])


def with_graph(members, graph) -> bytes:
    return write_program({**members, MODEL_MEMBER: json.dumps(graph).encode()})


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


def test_a_pickled_weight_is_refused(members):
    """A weight marked ``use_pickle`` is loaded with ``weights_only=False``."""
    config = json.loads(members[WEIGHTS_CONFIG_MEMBER])
    config["config"]["head.bias"]["use_pickle"] = True
    program = write_program({**members, WEIGHTS_CONFIG_MEMBER: json.dumps(config).encode()})

    with pytest.raises(ArchiveInvalid, match=r"'head.bias' .* to be a stub"):
        check_program(program)


@pytest.mark.parametrize("path_name", ["../../evil", "weight_7/../x", "custom_obj_0", "", 3, None])
def test_a_weight_elsewhere_is_refused(members, path_name):
    """Custom objects are unpickled too, and a path could lead anywhere."""
    config = json.loads(members[WEIGHTS_CONFIG_MEMBER])
    config["config"]["head.bias"]["path_name"] = path_name
    program = write_program({**members, WEIGHTS_CONFIG_MEMBER: json.dumps(config).encode()})

    with pytest.raises(ArchiveInvalid, match="to be a stub"):
        check_program(program)


@pytest.mark.parametrize(
    "name",
    [
        "archive/../../etc/passwd",
        "/etc/passwd",
        "archive/data/weights/model.pt",
        "archive/data/constants/model.pt",
        "archive/data/constants/custom_obj_0",
        "archive/data/constants/opaque_obj_0",
        "archive/data/aotinductor/model/x.so",
        "archive/extra/notes.txt",
        "archive/models/other.json",
        "other/models/model.json",
        "archive/data/weights/weight_7\n",
    ],
)
def test_a_member_that_the_packer_does_not_write_is_refused(members, name):
    """Pickles, shared objects and paths out of the archive all come as further members."""
    with pytest.raises(ArchiveInvalid, match="expected only what"):
        check_program(write_program({**members, name: b"x"}))


def test_weights_inside_a_program_are_refused(members):
    """They would make the program's hash differ for each model, and hide from the image."""
    with pytest.raises(ArchiveInvalid, match="empty of weights"):
        check_program(write_program({**members, "archive/data/weights/weight_7": bytes(128)}))


@pytest.mark.parametrize("member", [MODEL_MEMBER, WEIGHTS_CONFIG_MEMBER, "archive/byteorder"])
def test_a_missing_member_is_refused(members, member):
    """torch would look for older formats instead, which are pickles throughout."""
    rest = {name: content for name, content in members.items() if name != member}

    with pytest.raises(ArchiveInvalid, match="they are missing"):
        check_program(write_program(rest))


def test_a_compressed_program_is_refused(members):
    """A kilobyte that unpacks to a gigabyte is the oldest trick of zip files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)

    with pytest.raises(ArchiveInvalid, match="got compressed"):
        check_program(buffer.getvalue())


def test_bytes_hidden_around_the_members_are_refused(packed, members):
    """Two zip readers may see two different files; ours is not the one that loads it."""
    program = packed.program_path.read_bytes()
    repeated = io.BytesIO(program)
    with (
        zipfile.ZipFile(repeated, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr(MODEL_MEMBER, members[MODEL_MEMBER])

    for altered in (b"#!/bin/sh\n" + program, program + b"\0", repeated.getvalue()):
        with pytest.raises(ArchiveInvalid):
            check_program(altered)


def test_an_expression_that_is_code_is_refused(members, graph):
    """torch hands shapes to sympify, which evaluates any Python: no pickle is needed."""
    text = json.dumps(graph)
    code = "__import__('os').abort()"
    symbol = next(iter(graph["range_constraints"]))
    evil = text.replace(f"Symbol('{symbol}', positive=True, integer=True)", code)

    assert code in evil
    with pytest.raises(ArchiveInvalid, match="evaluated as Python"):
        check_program(with_graph(members, json.loads(evil)))


@pytest.mark.parametrize(
    "expression",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(4), Symbol('s77', positive=True, integer=True))",
        "Add(Integer(-1), FloorDiv(Symbol('s0', positive=True, integer=True), Integer(2)))",
    ],
)
def test_arithmetic_on_the_batch_is_accepted(members, graph, expression):
    """Models do reshape by multiples of their batch."""
    altered = json.loads(json.dumps(graph))
    values = altered["graph_module"]["graph"]["tensor_values"]
    values["extra"] = {"sizes": [{"as_expr": {"expr_str": expression, "hint": {"as_int": 2}}}]}

    assert check_program(with_graph(members, altered)) == altered


@pytest.mark.parametrize(
    "expression",
    [
        "exec(1)",
        "Symbol('s77').__class__",
        "Symbol('__import__', positive=True)",
        "lambda: 1",
        "Pow(10, Pow(10, 10))",
        "IntegerAdd",
        "10**10**10",
        "[]",
        "",
        3,
    ],
)
def test_anything_but_arithmetic_is_refused(members, graph, expression):
    """The list of what may stand in an expression is short, and code is not on it."""
    altered = json.loads(json.dumps(graph))
    altered["range_constraints"]["x"] = {"expr_str": expression}

    with pytest.raises(ArchiveInvalid, match="evaluated as Python"):
        check_program(with_graph(members, altered))


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.higher_order.cond",
        "torch.ops.aten.add",
        "torch.ops.mine.op.default",
        "_operator.methodcaller",
        "#ext",
        "builtins.exec",
        "",
        None,
    ],
)
def test_an_operator_from_elsewhere_is_refused(members, graph, target):
    """torch resolves targets by getattr from ``torch``, where ``torch.load`` is to be had."""
    altered = json.loads(json.dumps(graph))
    altered["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(ArchiveInvalid, match="operator of aten"):
        check_program(with_graph(members, altered))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("guards_code", ["import os"], "guards_code"),
        ("guards_code", None, "guards_code"),
        ("metadata", {"a": "b"}, "metadata to be empty"),
        ("as_custom_obj", {"name": "x"}, "got as_custom_obj"),
        ("as_graph", {"name": "x"}, "got as_graph"),
    ],
)
def test_other_parts_that_torch_would_run_are_refused(members, graph, key, value, complaint):
    """Guards are executed as text; custom objects and inner graphs are not data we know."""
    with pytest.raises(ArchiveInvalid, match=complaint):
        check_program(with_graph(members, {**graph, key: value}))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("signature", "input_specs", 0), {"token": {}}, "got token"),
        (("signature", "output_specs", 0), {"buffer_mutation": {}}, "may not change its"),
        (("signature", "input_specs"), None, "not as torch.export writes it"),
        (("signature", "input_specs", 0), {}, "not as torch.export writes it"),
        (("signature",), [], "not as torch.export writes it"),
        (("graph", "tensor_values"), {}, "not as torch.export writes it"),
        (("graph", "tensor_values", "features", "sizes"), [], "to be a batch"),
        (("graph", "tensor_values", "features", "sizes", 0), {"as_int": 2}, "to be a batch"),
        (("graph", "tensor_values", "features", "dtype"), 9, "not as torch.export writes it"),
        (("graph", "inputs"), [], "other arguments than its signature"),
    ],
)
def test_a_signature_that_is_no_batched_function_is_refused(graph, path, value, complaint):
    """What stands in the signature decides which bytes are bound to which argument."""
    altered = json.loads(json.dumps(graph))
    place = altered["graph_module"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(ArchiveInvalid, match=complaint):
        read_signature(altered)


def test_a_program_of_batches_from_two_is_refused(graph):
    """A batch of one must always be possible: it is what a lone request is."""
    altered = json.loads(json.dumps(graph))
    next(iter(altered["range_constraints"].values()))["min_val"] = 2

    with pytest.raises(ArchiveInvalid, match="batches from 1"):
        read_signature(altered)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"PK\x03\x04" + tail))
def test_no_bytes_raise_anything_else(content):
    """Servers handle ArchiveInvalid and nothing more."""
    with pytest.raises(ArchiveInvalid):
        check_program(content)


@given(data=st.data())
def test_no_damage_to_a_program_raises_anything_else(packed, data):
    """zipfile raises many things on damaged directories; none may reach a server."""
    program = bytearray(packed.program_path.read_bytes())
    # The directory and the end record are at the end: most of the damage should go there.
    back = data.draw(st.integers(1, 1200) | st.integers(1, len(program)))
    program[-back] = data.draw(st.integers(0, 255))
    try:
        graph = check_program(bytes(program))
        read_signature(graph)
    except ArchiveInvalid:
        return
    assert bytes(program) == write_program(_members_of(bytes(program)))


def _members_of(program: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}
