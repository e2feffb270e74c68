"""What is fuzzed: each reader of bytes that come from outside, and what it may answer.

A target takes bytes. It returns, or raises one of the errors that its callers expect; whatever else
it raises is a finding. `tools/fuzz` feeds them, `test_corpus.py` replays what was found.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import capnp
import trio

from cw.config import HttpSettings
from cw.errors import ArchiveInvalid, ManifestInvalid, ProtocolViolation
from cw.http.exchange import HttpError, HttpRequest
from cw.http.infer import read_request
from cw.models.image import read_layout
from cw.models.manifest import dump_manifest, parse_manifest
from cw.models.program import MODEL_MEMBER, check_program, write_program
from cw.models.program_signature import read_signature
from cw.models.safe_graph import read_safe_graph
from cw.rpc import schema
from cw.rpc.codec import actions, decisions, models, payloads, reports, requests, status
from cw.rpc.codec.binding import checked
from cw.rpc.kj_connection import open_connection
from cw.rpc.kj_flow import FlowLimits, MessageMeter, OpenCalls
from cw.rpc.kj_loop import open_kj
from tests.fuzz.seeds import program_members
from tests.http.http_fakes import SPEC, FakeTenant, calling

NESTING_MAX: Final = 64
WORDS_MAX: Final = 1 << 17
MESSAGE_BYTES_MAX: Final = 1 << 16


@attrs.frozen
class Target:
    """One reader of foreign bytes."""

    run: Callable[[bytes], object]
    refuses_by: tuple[type[Exception], ...]
    """What it raises for bytes that it does not take."""
    share: float
    """Of all inputs; the slow ones get fewer."""

    def feed(self, data: bytes) -> bool:
        """Feed one input; whether it was taken. Raises what is a finding."""
        try:
            self.run(data)
        except self.refuses_by:
            return False
        return True


# --- frames of Cap'n Proto ------------------------------------------------------------------------

READERS: Final = (
    (schema.serving.InferCall, requests.infer_call_from_wire),
    (schema.serving.Answer, requests.answer_from_wire),
    (schema.executor.Orders, actions.orders_from_wire),
    (schema.executor.ActionResult, actions.action_result_from_wire),
    (schema.executor.BatchInputs, payloads.batch_inputs_from_wire),
    (schema.executor.BatchOutputs, payloads.batch_outputs_from_wire),
    (schema.control.Notices, decisions.notices_from_wire),
    (schema.control.GatewayReport, reports.gateway_report_from_wire),
    (schema.control.ExecutorHello, reports.executor_hello_from_wire),
    (schema.common.ModelSpec, models.model_spec_from_wire),
    (schema.common.ClusterStatus, status.cluster_status_from_wire),
)


def read_message(data: bytes) -> None:
    """Read a message of the kind that the first byte names, as a codec does."""
    struct, read = READERS[data[0] % len(READERS)] if data else READERS[0]
    words = data[1:]
    words += bytes(-len(words) % 8)  # Whole words, as a stream always gives them.
    with struct.from_bytes(
        words, traversal_limit_in_words=WORDS_MAX, nesting_limit=NESTING_MAX
    ) as wire:
        checked(read)(wire)


def meter_frames(data: bytes) -> None:
    """Follow a stream in pieces, as a connection's accounts do; they must never go wrong."""
    calls = OpenCalls(FlowLimits(), lambda: None)
    meter = MessageMeter(calls.received)
    for at in range(0, len(data), 13):
        meter.feed(data[at : at + 13])
        assert meter.unfinished_bytes >= 0
        assert calls.open_bytes >= 0
        assert 0 <= calls.room_bytes <= FlowLimits().max_open_bytes


class _Door(schema.serving.Serving.Server):  # type: ignore[misc]
    """A front door behind which nobody is."""


def speak(data: bytes) -> None:
    """Send a stream to a real connection of the C++ library, which must end or wait, not crash."""

    async def both() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        limits = FlowLimits(max_message_bytes=MESSAGE_BYTES_MAX)
        with trio.fail_after(5):
            async with (
                open_kj(),
                open_connection(theirs, "fuzz", make_bootstrap=lambda _: _Door(), limits=limits),
            ):
                await ours.send_all(data)
                await trio.testing.wait_all_tasks_blocked(0.0)
                await ours.aclose()

    trio.run(both)


# --- HTTP -----------------------------------------------------------------------------------------


def read_body(data: bytes) -> None:
    """Read a request's body: JSON, of a length that the first bytes name, and tensors behind."""
    json_bytes = int.from_bytes(data[:2], "little")
    headers = {} if json_bytes == 0 else {"inference-header-content-length": str(json_bytes)}
    request = HttpRequest(
        method="POST",
        path=("v2", "models", SPEC.name, "infer"),
        headers=headers,
        body=data[2:],
        arrival_ns=0,
    )
    read_request(request, SPEC, HttpSettings())


def speak_http(data: bytes) -> None:
    """Send a stream to a whole HTTP connection, and hang up."""

    async def both() -> None:
        with trio.fail_after(5):
            async with calling(FakeTenant(), max_body_bytes=MESSAGE_BYTES_MAX) as caller:
                await caller.stream.send_all(data)
                await trio.testing.wait_all_tasks_blocked(0.0)
                await caller.stream.aclose()

    trio.run(both)


# --- models ---------------------------------------------------------------------------------------


def check_archive(data: bytes) -> None:
    """Check a program's zip, as a stranger's upload is."""
    read_signature(check_program(data))


def check_graph(data: bytes) -> None:
    """Check a program whose zip is sound and whose graph is these bytes; then build it as data."""
    members: Mapping[str, bytes] = {**program_members(), MODEL_MEMBER: data}
    graph = check_program(write_program(members))
    read_signature(graph)
    read_safe_graph(graph)


def check_weights(data: bytes) -> None:
    """Read the header of a file of weights; what it says must lie within the file."""
    layout = read_layout(io.BytesIO(data), len(data))
    for place in layout.tensors.values():
        assert 0 <= place.offset_bytes <= layout.image_bytes


def check_manifest(data: bytes) -> None:
    """Read a manifest; one that is taken must survive being written and read again."""
    manifest = parse_manifest(data.decode("utf-8", "replace"))
    assert parse_manifest(dump_manifest(manifest)) == manifest


TARGETS: Final[Mapping[str, Target]] = {
    "messages": Target(read_message, (ProtocolViolation, capnp.KjException), 0.2),
    "frames": Target(meter_frames, (), 0.15),
    "connection": Target(speak, (), 0.02),
    "bodies": Target(read_body, (HttpError,), 0.2),
    "http": Target(speak_http, (), 0.03),
    "archives": Target(check_archive, (ArchiveInvalid,), 0.1),
    "graphs": Target(check_graph, (ArchiveInvalid,), 0.1),
    "weights": Target(check_weights, (ArchiveInvalid,), 0.1),
    "manifests": Target(check_manifest, (ManifestInvalid,), 0.1),
}


def shares(inputs: int, names: tuple[str, ...]) -> dict[str, int]:
    """Deal inputs to targets, by their shares; at least one each."""
    total = sum(TARGETS[name].share for name in names)
    return {name: max(1, round(inputs * TARGETS[name].share / total)) for name in names}


def unexpected(name: str, data: bytes) -> Any:
    """Feed one input to a target; return what it should not have raised, or None."""
    try:
        TARGETS[name].feed(data)
    except Exception as finding:
        return finding
    return None
