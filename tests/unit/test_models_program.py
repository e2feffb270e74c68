"""Programs are checked as data: whatever torch would run or look up as it loads one is refused."""

import io
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.errors import ArchiveInvalid
from cw.models.examples.tiny import MLP
from cw.models.program import (
    MODEL_MEMBER,
    WEIGHTS_CONFIG_MEMBER,
    check_program,
    write_program,
)
from cw.models.program_signature import read_signature


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return MLP.pack(tmp_path_factory.mktemp("packed") / "mlp")


@pytest.fixture(scope="module")
def members(packed):
    return members_of(packed.program_path.read_bytes())


@pytest.fixture(scope="module")
def graph(members):
    return json.loads(members[MODEL_MEMBER])


def with_graph(members, graph) -> bytes:
    return write_program({**members, MODEL_MEMBER: json.dumps(graph).encode()})


def members_of(program: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


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
    assert bytes(program) == write_program(members_of(bytes(program)))
