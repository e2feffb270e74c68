"""Programs that nobody vouches for: computed alike, or refused by name with nothing run."""

import copy
import io
import json
import sys

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cw.devices.safe_program import WORKING_BYTES_MAX, build_module, resolve
from cw.errors import ArchiveInvalid
from cw.messages import Datatype, TensorSpec
from cw.models.examples.efficientnet import EFFICIENTNET
from cw.models.examples.example import Example
from cw.models.examples.minilm import MINILM
from cw.models.examples.resnet import RESNET18
from cw.models.examples.tiny import CNN, MLP
from cw.models.program import check_program
from cw.models.program_signature import read_signature
from cw.models.safe_graph import STEPS_MAX, read_safe_graph
from cw.models.safe_operators import SAFE_OPERATORS
from cw.models.torch_dtypes import TORCH_DTYPES

FORBIDDEN_EVENTS = ("pickle.", "os.system", "os.exec", "os.spawn", "subprocess.", "socket.")
_seen: list[str] | None = None


def _watch(event, _arguments):
    if _seen is not None and event.startswith(FORBIDDEN_EVENTS):
        _seen.append(event)


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def forbidden_events():
    """What an interpreter that was tricked would do; all of a test, whatever it refuses."""
    global _seen
    _seen = []
    yield
    seen, _seen = _seen, None
    assert seen == []


@attrs.frozen
class Batches:
    """All that the loader asks of a model's spec."""

    batch_sizes: tuple[int, ...] = (1, 2)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return MLP.pack(tmp_path_factory.mktemp("packed") / "mlp").program_path.read_bytes()


@pytest.fixture(scope="module")
def document(program):
    return check_program(program)


def build(document, batch_sizes=(1, 2)):
    return build_module(
        read_safe_graph(document), read_signature(document), Batches(batch_sizes=batch_sizes)
    )


def changed(document, **fields):
    """Replace fields of the first operator (a linear layer)."""
    altered = copy.deepcopy(document)
    altered["graph_module"]["graph"]["nodes"][0].update(fields)
    return altered


def with_argument(document, index, arg):
    altered = copy.deepcopy(document)
    altered["graph_module"]["graph"]["nodes"][0]["inputs"][index]["arg"] = arg
    return altered


def with_step(document, target, inputs, output="added"):
    """Put an operator before all others; its result is used by nobody."""
    altered = copy.deepcopy(document)
    altered["graph_module"]["graph"]["nodes"].insert(
        0,
        {
            "target": target,
            "inputs": [{"name": name, "arg": arg, "kind": 1} for name, arg in inputs],
            "outputs": [{"as_tensor": {"name": output}}],
            "metadata": {},
        },
    )
    return altered


def samples(signature, batch_size):
    generator = torch.Generator().manual_seed(7)
    for argument in signature.arguments:
        shape = argument.shape if argument.is_weight else (batch_size, *argument.shape)
        yield torch.rand(shape, generator=generator).to(TORCH_DTYPES[argument.datatype])


@pytest.mark.parametrize(
    "example",
    [
        MLP,
        CNN,
        RESNET18,
        pytest.param(EFFICIENTNET, marks=pytest.mark.slow),
        pytest.param(MINILM, marks=pytest.mark.slow),
    ],
    ids=lambda example: example.name,
)
def test_a_program_computes_the_same_bits_as_when_torch_loads_it(tmp_path, example):
    """Safety costs nobody an answer: each operator gets the very arguments that it was given."""
    data = example.pack(tmp_path / "packed").program_path.read_bytes()
    document = check_program(data)
    signature = read_signature(document)
    module = build(document)
    reference = torch.export.load(io.BytesIO(data)).graph_module

    for batch_size in (1, 2):
        given = tuple(samples(signature, batch_size))
        for ours, theirs in zip(module(*given), reference(*given), strict=True):
            assert torch.equal(ours, theirs)


class Varied(torch.nn.Module):
    """Many kinds of arguments: lists of tensors, parts, datatypes, infinities, keywords."""

    def forward(self, x):
        left, right = x.split(2, dim=1)
        both = torch.cat([left, right.to(torch.float64).to(torch.float32)], 1)
        masked = both.masked_fill(both > 9.0, float("-inf"))
        top, _ = torch.topk(masked.softmax(-1), 2)
        scaled = torch.nn.functional.pad(top, (1, 1)) * torch.arange(4, dtype=torch.float32)
        return scaled.reshape(x.shape[0] * 2, 2).view(x.shape[0], 4).clone()


def test_parts_lists_and_datatypes_come_through(tmp_path):
    """What a tenant's own architecture is made of, beside layers."""
    example = Example(
        name="varied",
        description="",
        build=lambda _seed: Varied(),
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(4,)),),
        output_names=("y",),
        batch_sizes=(1, 2, 4),
    )
    data = example.pack(tmp_path / "packed").program_path.read_bytes()
    document = check_program(data)
    module = build(document, (1, 2, 4))
    given = tuple(samples(read_signature(document), 4))

    (ours,) = module(*given)
    (theirs,) = torch.export.load(io.BytesIO(data)).graph_module(*given)

    assert torch.equal(ours, theirs)


def test_no_allowed_operator_writes_draws_or_depends_on_values():
    """The list is the gate: one operator too many and the rest is for nothing."""
    tags = torch.Tag
    for name in sorted(SAFE_OPERATORS):
        operator = resolve(name)
        arguments = {argument.name for argument in operator._schema.arguments}
        assert not operator._schema.is_mutable, name
        assert not {tags.data_dependent_output, tags.dynamic_output_shape} & set(operator.tags), (
            name
        )
        if tags.nondeterministic_seeded in operator.tags:
            assert arguments & {"train", "dropout_p"}, name  # FIXED_ARGUMENTS turn it off


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.relu_.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.linear",
        "torch.ops.aten.linear.default.__globals__",
        "torch.ops.higher_order.cond",
        "torch.ops.mkldnn._linear_pointwise.default",
        "torch.ops.load_library",
        "_operator.getitem",
        "_operator.attrgetter",
        "builtins.eval",
        "call_method",
        "",
        None,
        ["torch.ops.aten.linear.default"],
        {"torch": "ops"},
    ],
)
def test_any_other_operator_is_refused_by_its_name(document, target):
    """Nothing is looked up in torch that the list does not name, however it is spelt."""
    with pytest.raises(ArchiveInvalid) as refused:
        build(changed(document, target=target))

    assert repr(str(target)) in str(refused.value)


@pytest.mark.parametrize(
    "arg",
    [
        {"as_custom_obj": {"name": "x", "class_fqn": "os.system"}},
        {"as_graph": {"name": "x", "graph": {}}},
        {"as_operator": "torch.ops.aten.relu.default"},
        {"as_expr": {"expr_str": "__import__('os').abort()"}},
        {"as_sym_int": {"as_expr": {"expr_str": "1"}}},
        {"as_sym_ints": [{"as_name": "nobody"}]},
        {"as_tensor": {"name": "linear_1"}},
        {"as_tensor": {"name": "__class__"}},
        {"as_tensors": [{"name": "x"}] * 2_000},
        {"as_int": 1 << 64},
        {"as_int": True},
        {"as_int": 1.5},
        {"as_float": float("nan")},
        {"as_float": "1e9"},
        {"as_string": "__import__('os')"},
        {"as_scalar_type": 99},
        {"as_device": {"type": "cuda", "index": 0}},
        {"as_layout": 1},
        {"as_none": True, "as_int": 1},
        {},
        [],
        None,
    ],
)
def test_any_other_argument_is_refused(document, arg):
    """Objects, graphs, expressions, cycles and absurd numbers are no data of a program."""
    with pytest.raises(ArchiveInvalid):
        build(with_argument(document, 0, arg))


def test_more_steps_than_the_bound_are_refused(document):
    """Each costs time in an executor that others wait for."""
    altered = copy.deepcopy(document)
    nodes = altered["graph_module"]["graph"]["nodes"]
    nodes.extend(nodes[:1] * STEPS_MAX)

    with pytest.raises(ArchiveInvalid, match=f"at most {STEPS_MAX} operators"):
        build(altered)


@pytest.mark.parametrize(
    ("target", "inputs", "why"),
    [
        ("zeros.default", [("size", {"as_ints": [1 << 20, 1 << 20]})], "it would take"),
        ("zeros.default", [("size", {"as_ints": [1 << 40, 1 << 40]})], "fails"),
        ("zeros.default", [("size", {"as_ints": [-1]})], "fails"),
        ("arange.default", [("end", {"as_float": "Infinity"})], "fails"),
        (
            "expand.default",
            [("self", {"as_tensor": {"name": "features"}}), ("size", {"as_ints": [3, 3]})],
            "fails",
        ),
        ("zeros.default", [("self", {"as_int": 1})], r"takes \['size'"),
        (
            "dropout.default",
            [
                ("input", {"as_tensor": {"name": "features"}}),
                ("p", {"as_float": 0.5}),
                ("train", {"as_bool": True}),
            ],
            "evaluation mode",
        ),
        (
            "unbind.int",
            [("self", {"as_tensor": {"name": "features"}}), ("dim", {"as_int": 9})],
            "fails",
        ),
    ],
)
def test_a_step_that_takes_too_much_or_fails_is_refused_before_it_runs(
    document, target, inputs, why
):
    """Tried on tensors without memory: the refusal itself takes none."""
    with pytest.raises(ArchiveInvalid, match=why):
        build(with_step(document, f"torch.ops.aten.{target}", inputs))


def test_a_tensor_is_not_cut_into_a_million_parts(document):
    """A view is a hundred bytes however little it shows; they are counted before they are made."""
    size = [("size", {"as_ints": [1 << 24]})]
    cut = [("self", {"as_tensor": {"name": "big"}}), ("split_size", {"as_int": 1})]
    altered = with_step(document, "torch.ops.aten.split.Tensor", cut)
    altered = with_step(altered, "torch.ops.aten.zeros.default", size, output="big")

    with pytest.raises(ArchiveInvalid, match="makes 16777216 parts"):
        build(altered)


def test_a_small_view_is_charged_for_all_that_it_keeps(document):
    """Else a thousand of them would hold a thousand large tensors, unseen."""
    each = WORKING_BYTES_MAX // 4 // 3  # three of float32 fit, four do not
    altered = document
    for number in reversed(range(4)):
        shown = [
            ("self", {"as_tensor": {"name": f"large_{number}"}}),
            ("dim", {"as_int": 0}),
            ("index", {"as_int": 0}),
        ]
        altered = with_step(altered, "torch.ops.aten.select.int", shown, output=f"view_{number}")
        size = [("size", {"as_ints": [each]})]
        altered = with_step(altered, "torch.ops.aten.zeros.default", size, f"large_{number}")
    kept = [("tensors", {"as_tensors": [{"name": f"view_{number}"} for number in range(4)]})]
    nodes = altered["graph_module"]["graph"]["nodes"]
    nodes.insert(
        8,
        with_step(document, "torch.ops.aten.stack.default", kept, "kept")["graph_module"]["graph"][
            "nodes"
        ][0],
    )

    with pytest.raises(ArchiveInvalid, match="it would take"):
        build(altered)


def test_numbers_that_grow_without_end_are_refused(document):
    """A size squared thirty times has a billion digits."""
    altered = copy.deepcopy(document)
    nodes = altered["graph_module"]["graph"]["nodes"]
    for number in range(30):
        before = {"as_int": 1 << 20} if not number else {"as_name": f"grown_{number - 1}"}
        nodes.insert(
            number,
            {
                "target": "_operator.mul",
                "inputs": [{"name": "", "arg": {"as_sym_int": before}, "kind": 1}] * 2,
                "outputs": [{"as_sym_int": {"as_name": f"grown_{number}"}}],
                "metadata": {},
            },
        )

    with pytest.raises(ArchiveInvalid, match="expected tensors and sizes"):
        build(altered)


def test_deep_nesting_is_refused(document):
    """A parser that recurses would take the process with it."""
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ArchiveInvalid):
        build(with_argument(document, 0, {"as_ints": deep}))


def _places(value, path=()):
    """Yield the path of every value inside nested JSON."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _places(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _places(part, (*path, index))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.sampled_from(["x", "__import__('os').abort()", "features", "torch.ops.aten.relu.default"]),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from(["as_int", "as_tensor", "as_expr", "name"]), st.integers()),
)


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_a_damaged_graph_is_refused_or_gives_what_it_promises(document, data):
    """Any value of the graph replaced by junk: an error of ours, or a sound module."""
    altered = json.loads(json.dumps(document))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([place for place in _places(altered) if place]))
        parent = altered
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = data.draw(JUNK)
    try:
        signature = read_signature(altered)
        module = build_module(read_safe_graph(altered), signature, Batches())
    except ArchiveInvalid:
        return
    outputs = module(*samples(signature, 2))
    assert [tuple(output.shape) for output in outputs] == [
        (2, *output.shape) for output in signature.outputs
    ]
