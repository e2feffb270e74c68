"""The HTTP door: what the Open Inference Protocol asks for, on a connection in memory."""

import json

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cw.messages import Answer, Failure, FailureKind, ModelState, Refusal, RefusalReason, Timing
from cw.units import MS
from tests.http.http_fakes import INFER, SPEC, FakeTenant, N, X, asked, calling


def ended(**end):
    return Answer(timing=Timing(total_ns=MS), promised=False, **end)


async def test_tells_of_itself_and_of_its_models():
    """What clients ask before their first request."""
    async with calling(FakeTenant()) as caller:
        assert (await caller.ask("GET", "/v2/health/live"))[0] == 200
        assert (await caller.ask("GET", "/v2/health/ready"))[0] == 200
        _, server = await caller.ask_json("GET", "/v2")
        _, model = await caller.ask_json("GET", "/v2/models/sums/versions/1")
        _, config = await caller.ask_json("GET", "/v2/models/sums/config")
        _, index = await caller.ask_json("POST", "/v2/repository/index")

    assert server["name"] == "cw"
    assert server["version"] == "1.2.3"
    assert "binary_tensor_data" in server["extensions"]
    assert model["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    assert config["output"][1] == {"name": "n", "data_type": "TYPE_INT8", "dims": [1]}
    assert config["max_batch_size"] == 0
    assert index == [{"name": "sums", "version": "1", "state": "READY", "reason": ""}]


async def test_a_request_in_json():
    """Numbers in, numbers out; the answer repeats the id, and the door's own SLO holds."""
    tenant = FakeTenant()
    async with calling(tenant) as caller:
        status, answer = await caller.ask_json("POST", INFER, asked(id="q7"))

    assert status == 200
    assert answer["id"] == "q7"
    assert answer["outputs"][0]["data"] == (2 * X).ravel().tolist()
    assert answer["outputs"][1]["shape"] == [1]
    assert tenant.calls[0].slo_ns == 300 * MS


async def test_a_request_in_binary_is_answered_in_binary():
    """The extension: data behind the JSON, both ways, and a model's batch dimension of one."""
    inputs = [
        {"name": "n", "datatype": "INT8", "shape": [1, 1], "parameters": {"binary_data_size": 1}},
        {
            "name": "x",
            "datatype": "FP32",
            "shape": [1, 2, 2],
            "parameters": {"binary_data_size": 16},
        },
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    async with calling(FakeTenant()) as caller:
        status, headers, body = await caller.ask(
            "POST",
            INFER,
            head + N.tobytes() + X.tobytes(),
            [("inference-header-content-length", str(len(head)))],
        )

    length = int(headers["inference-header-content-length"])
    answer = json.loads(body[:length])
    assert status == 200
    assert [output["shape"] for output in answer["outputs"]] == [[1, 2, 2], [1, 1]]
    assert body[length:] == (2 * X).tobytes() + N.tobytes()


async def test_outputs_can_be_chosen():
    """One in binary and the other as numbers, in the order asked for."""
    wanted = [{"name": "n"}, {"name": "twice", "parameters": {"binary_data": True}}]
    async with calling(FakeTenant()) as caller:
        _, headers, body = await caller.ask(
            "POST", INFER, json.dumps(asked(outputs=wanted)).encode()
        )

    length = int(headers["inference-header-content-length"])
    outputs = json.loads(body[:length])["outputs"]
    assert outputs[0]["data"] == [-7]
    assert outputs[1]["parameters"] == {"binary_data_size": 16}
    assert len(body) == length + 16


@pytest.mark.parametrize(
    ("parameters", "slo_ns"),
    [
        pytest.param({"slo_ms": 12.5}, 12_500_000, id="slo_ms"),
        pytest.param({"timeout": 25_000}, 25 * MS, id="timeout, in microseconds"),
        pytest.param({"timeout": 1, "slo_ms": 40}, 40 * MS, id="the plainer one wins"),
    ],
)
async def test_the_slo_comes_with_the_request(parameters, slo_ns):
    """Triton's clients can say a deadline only as a timeout."""
    tenant = FakeTenant()
    async with calling(tenant) as caller:
        await caller.ask_json("POST", INFER, asked(parameters=parameters))

    assert tenant.calls[0].slo_ns == slo_ns


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (RefusalReason.OVERLOAD, 429),
        (RefusalReason.OVER_QUOTA, 429),
        (RefusalReason.NOT_READY, 503),
    ],
)
async def test_a_refusal_says_why_and_when(reason, status):
    """The caller still has time to go elsewhere: in whole seconds, and to the microsecond."""
    refusal = Refusal(reason=reason, message="full", earliest_finish_ns=1200 * MS)
    async with calling(FakeTenant(end=ended(refusal=refusal))) as caller:
        got, headers, body = await caller.ask("POST", INFER, json.dumps(asked()).encode())

    assert got == status
    assert headers["retry-after"] == "2"
    assert json.loads(body) == {
        "error": "full",
        "reason": reason.value,
        "earliest_finish_ms": 1200.0,
    }


@pytest.mark.parametrize("kind", FailureKind)
async def test_every_failure_has_a_status(kind):
    """None may end as a traceback, and a broken promise is no client's mistake."""
    failure = Failure(kind=kind, message="because")
    async with calling(FakeTenant(end=ended(failure=failure))) as caller:
        status, body = await caller.ask_json("POST", INFER, asked())

    assert status >= 400
    assert body == {"error": "because", "reason": kind.value}
    assert (status == 504) == (kind is FailureKind.LATE)


def with_input(**changed):
    body = asked()
    body["inputs"][0] |= changed
    return body


@pytest.mark.parametrize(
    ("body", "word"),
    [
        pytest.param([], "object", id="no object"),
        pytest.param({"inputs": 3}, "list", id="inputs are no list"),
        pytest.param(with_input(name=None), "strings", id="no name"),
        pytest.param(with_input(datatype="BYTES"), "BYTES", id="a datatype without a size"),
        pytest.param(with_input(shape=[-1, 4]), "shape", id="a negative dimension"),
        pytest.param(with_input(shape=[True, 4]), "shape", id="a boolean dimension"),
        pytest.param(with_input(shape=[5, 2, 2], data=[0] * 20), "one sample", id="five samples"),
        pytest.param(with_input(data=[1, 2, 3]), "4 elements", id="too few numbers"),
        pytest.param(with_input(data=[[1, 2], [3]]), "one shape", id="ragged numbers"),
        pytest.param(with_input(data=["a", "b", "c", "d"]), "FP32", id="no numbers"),
        pytest.param(with_input(data=None), "binary_data_size", id="no data"),
        pytest.param(
            with_input(parameters={"binary_data_size": 16}), "that are left", id="nothing behind"
        ),
        pytest.param(asked(parameters=7), "parameters", id="parameters are no object"),
        pytest.param(asked(parameters={"slo_ms": -1}), "slo_ms", id="a negative SLO"),
        pytest.param(asked(parameters={"slo_ms": "1ms"}), "slo_ms", id="an SLO in words"),
        pytest.param(asked(outputs=[{"name": "z"}]), "twice, n", id="an output it has not"),
        pytest.param(asked(id=5), "'id'", id="a number for an id"),
    ],
)
async def test_bad_bodies_are_told_what_was_expected(body, word):
    """And the connection goes on: the next request is answered."""
    async with calling(FakeTenant()) as caller:
        status, told = await caller.ask_json("POST", INFER, body)
        assert (await caller.ask_json("POST", INFER, asked()))[0] == 200

    assert status == 400
    assert word in told["error"]


async def test_numbers_that_do_not_fit_are_not_wrapped():
    """300 as INT8 would be 44, and nobody would know."""
    body = asked()
    body["inputs"][1]["data"] = [300]
    async with calling(FakeTenant()) as caller:
        status, told = await caller.ask_json("POST", INFER, body)

    assert status == 400
    assert "INT8" in told["error"]


async def test_nan_is_no_json():
    """Parsers differ in what they make of it: it is had in binary, or not at all."""
    body = with_input(data=[1, 2, 3, 3e38])  # doubled: infinity
    async with calling(FakeTenant()) as caller:
        status, told = await caller.ask_json("POST", INFER, body)

    assert status == 500
    assert "binary_data" in told["error"]


async def test_keys_open_and_do_not():
    """No other word for a key than Bearer, and nothing is told to whoever has none."""
    async with calling(FakeTenant()) as caller:
        for given, status in (("Bearer right", 200), ("Bearer wrong", 401), ("Basic x", 401)):
            headers = [("authorization", given)]
            assert (await caller.ask_json("POST", INFER, asked(), headers))[0] == status


async def test_what_is_not_there():
    """A wrong name, a wrong version and a wrong path each say so."""
    async with calling(FakeTenant()) as caller:
        for target in ("/v2/models/other", "/v2/models/sums/versions/2", "/v1/models", "/"):
            status, told = await caller.ask_json("GET", target)
            assert status == 404
            assert told["error"]


async def test_a_model_that_is_not_ready():
    """Readiness is the state that registration is in."""
    async with calling(FakeTenant(state=ModelState.REGISTERING)) as caller:
        status, headers, body = await caller.ask("GET", "/v2/models/sums/ready")

    assert status == 503
    assert headers["retry-after"] == "1"
    assert b"1 of 3 steps" in body


async def test_statistics_count_what_was_answered():
    """perf_analyzer asks before and after, and shows the difference."""
    tenant = FakeTenant()
    async with calling(tenant) as caller:
        await caller.ask_json("POST", INFER, asked())
        tenant.end = ended(refusal=Refusal(reason=RefusalReason.OVERLOAD))
        await caller.ask_json("POST", INFER, asked())
        _, told = await caller.ask_json("GET", "/v2/models/sums/stats")

    (stats,) = told["model_stats"]
    assert stats["inference_count"] == 1
    assert stats["execution_count"] == 1  # in a batch of two: of the other, this door knows nothing
    assert stats["inference_stats"]["success"] == {"count": 1, "ns": 5 * MS}
    assert stats["inference_stats"]["compute_infer"] == {"count": 1, "ns": 2 * MS}
    assert stats["inference_stats"]["fail"]["count"] == 1


@given(data=st.data())
def test_however_a_request_is_cut_its_answer_is_the_same(data):
    """TCP has no messages: two requests, in pieces of any sizes, have two answers."""

    async def main():
        async with calling(FakeTenant()) as caller:
            body = json.dumps(asked()).encode()
            one = caller.bytes_of("POST", INFER, body)
            cuts = data.draw(st.lists(st.integers(0, 2 * len(one)), max_size=6).map(sorted))
            for begin, end in zip([0, *cuts], [*cuts, 2 * len(one)], strict=True):
                await caller.stream.send_all((one + one)[begin:end])
                await trio.testing.wait_all_tasks_blocked()
            first = await caller.answer()
            caller.bytes_of("POST", INFER, body)  # it was sent above
            return first, await caller.answer()

    for status, _, body in trio.run(main):
        assert status == 200
        assert json.loads(body)["outputs"][0]["data"] == (2 * X).ravel().tolist()


@given(st.binary(max_size=64), st.integers(0, 80))
def test_no_binary_body_is_past_the_protocol(tail, size):
    """Whatever lies behind the JSON, the answer is outputs or an error, never a crash."""
    body = asked()
    body["inputs"][0] = {
        "name": "x",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps(body).encode()

    async def main():
        tenant = FakeTenant()
        async with calling(tenant) as caller:
            headers = [("inference-header-content-length", str(len(head)))]
            return (await caller.ask("POST", INFER, head + tail, headers))[0], tenant.calls

    status, calls = trio.run(main)
    if size == len(tail) == 16:
        assert status == 200 or np.isnan(np.frombuffer(tail, np.float32)).any() or status == 500
    elif size != len(tail):
        assert status == 400
        assert calls == []


def test_the_spec_of_these_tests_is_one_sample():
    """Shapes with and without the leading 1 must be told apart by their length."""
    assert all(tensor.shape[0] in (1, 2) for tensor in SPEC.inputs)
