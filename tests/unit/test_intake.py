"""Intake: what can't be served is turned away with what was expected, what came, what to do."""

import pytest

from cw.core.intake import check_slo, match_inputs, unknown_model
from cw.messages import (
    Datatype,
    Failure,
    FailureKind,
    InferCall,
    ModelId,
    ModelSpec,
    Tensor,
    TensorSpec,
)
from cw.units import MS, SECOND

SPEC = ModelSpec(
    model_id=ModelId(1),
    name="two-in",
    program_sha256="0" * 64,
    weights_sha256="1" * 64,
    image_bytes=4096,
    inputs=(
        TensorSpec(name="ids", datatype=Datatype.INT64, shape=(4,)),
        TensorSpec(name="mask", datatype=Datatype.BOOL, shape=(4,)),
    ),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=()),),
    batch_sizes=(1,),
)
IDS = Tensor(name="ids", datatype="INT64", shape=(4,), data=bytes(32))
MASK = Tensor(name="mask", datatype="BOOL", shape=(4,), data=b"\1\1\1\0")


def matched(*tensors: Tensor) -> tuple[bytes | memoryview, ...] | Failure:
    """Match a call with these inputs against `SPEC`."""
    return match_inputs(SPEC, InferCall(model=SPEC.name, inputs=tensors, slo_ns=MS))


def test_inputs_are_put_into_the_models_order() -> None:
    """Clients send by name; everything behind the gateway goes by position."""
    assert matched(MASK, IDS) == (IDS.data, MASK.data)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ((IDS,), ["expected the inputs ids, mask", "got ids"]),
        ((), ["got none"]),
        ((IDS, IDS), ["got ids, ids"]),
        ((IDS, MASK, MASK), ["got ids, mask, mask"]),
        (
            (IDS, Tensor(name="masc", datatype="BOOL", shape=(4,), data=bytes(4))),
            ["ids, mask", "masc"],
        ),
        (
            (IDS, Tensor(name="mask", datatype="FP32", shape=(4,), data=bytes(16))),
            ["'mask'", "expected datatype BOOL", "'FP32'"],
        ),
        (
            (IDS, Tensor(name="mask", datatype="complex", shape=(4,), data=bytes(4))),
            ["not a datatype"],
        ),
        (
            (IDS, Tensor(name="mask", datatype="BOOL", shape=(1, 4), data=bytes(4))),
            ["expected shape [4]", "[1, 4]", "without a batch dimension"],
        ),
        (
            (IDS, Tensor(name="mask", datatype="BOOL", shape=(4,), data=bytes(3))),
            ["expected 4 bytes", "got 3"],
        ),
    ],
)
def test_a_mismatch_is_named(tensors: tuple[Tensor, ...], words: list[str]) -> None:
    """A user who is told only 'bad request' has to guess; this text is all the help there is."""
    failure = matched(*tensors)

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID_INPUT
    assert all(word in failure.message for word in ["two-in", *words]), failure.message


@pytest.mark.parametrize("slo_ns", [-(2**63), -1, 0, MS - 1, 600 * SECOND + 1, 2**62])
def test_an_absurd_slo_is_refused(slo_ns: int) -> None:
    """Negative, zero, in the wrong unit, or endless: planning with it would be planning nothing."""
    failure = check_slo(slo_ns, min_ns=MS, max_ns=600 * SECOND)

    assert failure is not None
    assert failure.kind is FailureKind.INVALID_SLO
    assert str(slo_ns) in failure.message


def test_both_bounds_of_the_slo_are_included() -> None:
    """What the text says is allowed is allowed."""
    assert check_slo(MS, min_ns=MS, max_ns=SECOND) is None
    assert check_slo(SECOND, min_ns=MS, max_ns=SECOND) is None


def test_an_unknown_model_names_some_that_are_known() -> None:
    """The usual cause is a misspelling; with thousands of models not all can be shown."""
    failure = unknown_model("x" * 5000, [f"m{n}" for n in range(9)])

    assert failure.kind is FailureKind.UNKNOWN_MODEL
    assert "m0, m1, m2, m3, m4 and 4 more" in failure.message
    assert len(failure.message) < 500
