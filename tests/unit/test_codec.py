"""The codec: every message survives the wire unchanged, and garbage is named, never guessed at."""

import inspect

import attrs
import capnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw import messages
from cw.errors import ProtocolViolation
from cw.rpc import schema
from cw.rpc.codec import (
    actions,
    catalog,
    decisions,
    models,
    payloads,
    reports,
    requests,
    status,
    uploads,
    usage,
    versions,
)
from cw.rpc.codec.binding import EnumTable, checked
from tests import catalog_strategies, strategies, usage_strategies, version_strategies

COMMON, EXECUTOR = schema.common, schema.executor
CONTROL, SERVING = schema.control, schema.serving
CATALOG = schema.catalog

# One row for each struct that carries a message: how to make one, and the codec's two halves.
ROWS = {
    "ActionResult": (EXECUTOR, strategies.action_results, actions, "action_result"),
    "Action": (EXECUTOR, strategies.actions, actions, "action"),
    "Answer": (SERVING, strategies.answers, requests, "answer"),
    "BatchInputs": (EXECUTOR, strategies.batch_inputs, payloads, "batch_inputs"),
    "BatchOutputs": (EXECUTOR, strategies.batch_outputs, payloads, "batch_outputs"),
    "CancelSlot": (EXECUTOR, strategies.cancel_slots, actions, "cancel_slot"),
    "CatalogAnswer": (CATALOG, catalog_strategies.answers, catalog, "answer"),
    "CatalogOrder": (CATALOG, catalog_strategies.orders, catalog, "order"),
    "CellStatus": (COMMON, strategies.cell_statuses, status, "cell_status"),
    "ClusterStatus": (COMMON, strategies.cluster_statuses, status, "cluster_status"),
    "Decision": (CONTROL, strategies.decisions, decisions, "decision"),
    "DeviceDescription": (CONTROL, strategies.devices, reports, "device"),
    "DirectoryChange": (
        CATALOG,
        catalog_strategies.directory_changes,
        catalog,
        "directory",
    ),
    "ExecutorHello": (CONTROL, strategies.executor_hellos, reports, "executor_hello"),
    "ExecutorStatus": (COMMON, strategies.executor_statuses, status, "executor_status"),
    "ExecutorWelcome": (CONTROL, strategies.executor_welcomes, reports, "executor_welcome"),
    "Failure": (COMMON, strategies.failures, requests, "failure"),
    "GatewayHello": (CONTROL, strategies.gateway_hellos, reports, "gateway_hello"),
    "GatewayReport": (CONTROL, strategies.gateway_reports, reports, "gateway_report"),
    "GatewayWelcome": (CONTROL, strategies.gateway_welcomes, reports, "gateway_welcome"),
    "InferCall": (SERVING, strategies.infer_calls, requests, "infer_call"),
    "Ledger": (COMMON, strategies.ledgers, status, "ledger"),
    "ModelSpec": (COMMON, strategies.model_specs, models, "model_spec"),
    "ModelStatus": (COMMON, strategies.model_statuses, models, "model_status"),
    "Notices": (CONTROL, strategies.notices, decisions, "notices"),
    "Orders": (EXECUTOR, strategies.orders, actions, "orders"),
    "Pong": (COMMON, strategies.pongs, reports, "pong"),
    "ProfileEntry": (COMMON, strategies.profile_entries, models, "profile_entry"),
    "Refusal": (COMMON, strategies.refusals, requests, "refusal"),
    "Route": (CONTROL, strategies.routes, versions, "route"),
    "RouteOrder": (COMMON, version_strategies.route_orders, versions, "route_order"),
    "TensorSpec": (COMMON, strategies.tensor_specs, models, "tensor_spec"),
    "Timing": (SERVING, strategies.timings, requests, "timing"),
    "UploadOffer": (SERVING, version_strategies.upload_offers, uploads, "offer"),
    "UsageBatch": (CONTROL, usage_strategies.usage_batches, usage, "usage_batch"),
    "UsageEntry": (CONTROL, usage_strategies.usage_entries, usage, "usage_entry"),
    "UsageRecord": (CONTROL, usage_strategies.usage_records, usage, "usage_record"),
    "VersionStatus": (COMMON, version_strategies.version_statuses, versions, "version_status"),
}
# These travel only inside of the ones above.
NESTED = {
    "Abandon",
    "Assign",
    "Assignment",
    "AttemptFailed",
    "Cancel",
    "Descriptor",
    "DirectoryKey",
    "DirectoryTenant",
    "ExecutorAddress",
    "Infer",
    "KeyInfo",
    "Load",
    "ModelAccess",
    "Prepare",
    "Promise",
    "Quota",
    "Refuse",
    "Settled",
    "Share",
    "Slot",
    "SlotInputs",
    "SlotOutputs",
    "TenantInfo",
    "Tensor",
    "Unload",
    "Window",
}


def wire_of(name, message=None):
    """Return a builder of the struct `name`, filled from `message` if there is one."""
    module, _, codec, stem = ROWS[name]
    builder = getattr(module, name).new_message()
    if message is not None:
        getattr(codec, f"{stem}_to_wire")(message, builder)
    return builder


def read(name, builder):
    """Read a builder's bytes, as a peer would."""
    module, _, codec, stem = ROWS[name]
    with getattr(module, name).from_bytes(builder.to_bytes()) as reader:
        return checked(getattr(codec, f"{stem}_from_wire"))(reader)


@pytest.mark.parametrize("name", ROWS)
@given(data=st.data())
def test_message_survives_the_wire(name, data):
    """Both sides must mean the same by every field, at the ends of its range too."""
    message = data.draw(ROWS[name][1]())

    assert read(name, wire_of(name, message)) == message


def test_every_message_has_a_row():
    """A message that is added without its codec would be found out only by whoever sends it."""
    kinds = {
        name
        for name, value in vars(messages).items()
        if inspect.isclass(value) and attrs.has(value)
    }
    unions = {"Action", "Decision", "GatewayReport"}

    assert kinds | unions == set(ROWS) | NESTED


@given(st.binary(max_size=9), st.integers(0, 3))
def test_tensors_may_be_views(data, offset):
    """Executors and gateways hand slices of larger buffers on, without a copy of their own."""
    view = memoryview(data)[offset:]
    message = messages.SlotOutputs(position=0, outputs=(view,))
    outputs = messages.BatchOutputs(
        outcome=messages.Outcome.OK, device_ns=1, batch_size=1, slots=(message,)
    )

    got = read("BatchOutputs", wire_of("BatchOutputs", outputs))

    assert got.slots[0].outputs == (bytes(view),)


@pytest.mark.parametrize("name", ["Action", "Answer", "Decision", "GatewayReport"])
def test_unset_union_is_a_violation(name):
    """A forgotten union must never pass for its first meaning, say a LOAD of model 0."""
    with pytest.raises(ProtocolViolation, match="unset"):
        read(name, wire_of(name))


def test_unset_slot_outputs_are_a_violation():
    """An output that a peer forgot to set is not the same as one that did not run."""
    builder = wire_of("BatchOutputs")
    builder.outcome = "ok"
    builder.init("slots", 1)

    with pytest.raises(ProtocolViolation, match="SlotOutputs, got unset"):
        read("BatchOutputs", builder)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("ActionResult", "outcome"),
        ("BatchOutputs", "outcome"),
        ("Failure", "kind"),
        ("ModelStatus", "state"),
        ("Refusal", "reason"),
        ("TensorSpec", "datatype"),
    ],
)
@pytest.mark.parametrize("number", [0, 99])
def test_enum_out_of_its_table_is_a_violation(name, field, number):
    """Neither the zero value nor a newer peer's number may be taken for a known meaning."""
    builder = wire_of(name)
    setattr(builder, field, number)

    with pytest.raises(ProtocolViolation, match=f"got number {number}"):
        read(name, builder)


def test_settled_as_nothing_is_a_violation():
    """`settled` alone says what was kept and broken: an unset outcome must not count as either."""
    builder = wire_of("GatewayReport")
    builder.init("settled").finishedNs = 1

    with pytest.raises(ProtocolViolation, match="SettledAs, got number 0"):
        read("GatewayReport", builder)


def test_empty_window_is_a_violation():
    """An action that may never start is the sender's bug, and must not trip our own assert."""
    builder = wire_of("Action")
    builder.earliestNs, builder.latestNs = 2, 1
    builder.init("load").modelId = 1

    with pytest.raises(ProtocolViolation, match=r"got \[2, 1\] ns"):
        read("Action", builder)


def test_newer_union_member_is_a_violation():
    """A peer of a later version may set a member that this build has never heard of."""
    newer = wire_of("Decision", messages.Promise(request_id=1, attempt=1, predicted_finish_ns=2))
    octets = bytearray(newer.to_bytes())
    at = octets.index(bytes([1, 0]), 16)  # Behind segment table and root pointer: the tag is 1.
    octets[at : at + 2] = (77).to_bytes(2, "little")

    with (
        CONTROL.Decision.from_bytes(bytes(octets)) as reader,
        pytest.raises(ProtocolViolation, match="does not know"),
    ):
        decisions.decision_from_wire(reader)


@pytest.mark.parametrize("name", ROWS)
@given(data=st.data())
def test_damaged_message_is_a_violation_or_reads(name, data):
    """Whatever bytes come, the reader answers with a message or the one error that means them."""
    octets = bytearray(wire_of(name, data.draw(ROWS[name][1]())).to_bytes())
    if len(octets) > 16:
        places = st.integers(16, len(octets) - 1)  # Behind segment table and root pointer.
        for at in data.draw(st.lists(places, max_size=4)):
            octets[at] = data.draw(st.integers(0, 255))
    module, _, codec, stem = ROWS[name]
    with getattr(module, name).from_bytes(bytes(octets)) as reader:
        try:
            message = checked(getattr(codec, f"{stem}_from_wire"))(reader)
        except ProtocolViolation:
            return

    assert repr(read(name, wire_of(name, message))) == repr(message)  # By repr: NaN != NaN.


def test_text_that_is_not_utf8_is_a_violation():
    """Another language's peer may put any bytes into a Text."""
    octets = bytearray(
        wire_of(
            "Failure", messages.Failure(kind=messages.FailureKind.LATE, message="late!")
        ).to_bytes()
    )
    octets[octets.index(b"late!")] = 0xFF

    with COMMON.Failure.from_bytes(bytes(octets)) as reader, pytest.raises(ProtocolViolation):
        checked(requests.failure_from_wire)(reader)


def test_enum_table_notices_a_missing_member():
    """An outcome added to Python but not to the schema would be an error at run time only."""
    with pytest.raises(AssertionError, match="differ"):
        EnumTable(messages.Outcome, schema.control.SettledAs)


IDS = {
    "catalog.capnp": 0xD4A1B7C60F3E9582,
    "common.capnp": 0xCAA013E226A0CD9D,
    "serving.capnp": 0x90C1A8BFA067F102,
    "executor.capnp": 0xD74DEFEE6BDA5785,
    "control.capnp": 0xE26EE51298F1F00E,
}
INTERFACE_IDS = {
    "Serving": 0xF2B281EB1FA22086,
    "Tenant": 0xDD73005F6205D325,
    "Admin": 0xDF8A2C430BEBD230,
    "Upload": 0xBE2F861DA6F48A6B,
    "Executor": 0xB160D885E37510CC,
    "Inference": 0xC128BEA9813BF025,
    "Controller": 0x823DF5BD073A20A7,
    "Gateway": 0xBD1FB5FE7C6A5330,
    "GatewaySession": 0x82DA4CECF4242E95,
    "ExecutorSession": 0xE0298FA0FA03DF7C,
}


def test_ids_of_files_never_change():
    """Structs' ids follow from these: changing one breaks every peer of another version."""
    found = {
        path.name: int(path.read_text().split(";", 1)[0].removeprefix("@0x"), 16)
        for path in schema.SCHEMAS.glob("*.capnp")
    }

    assert found == IDS


def test_ids_of_interfaces_never_change():
    """An interface's id is in every call: a peer of another version finds nobody behind it."""
    found = {
        name: value.schema.node.id
        for module in (COMMON, SERVING, EXECUTOR, CONTROL)
        for name, value in vars(module).items()
        if isinstance(value, capnp.lib.capnp._InterfaceModule)
    }

    assert found == INTERFACE_IDS


def test_first_member_of_unions_and_enums_is_unset():
    """The zero value must mean nothing, in every union and enum that will ever be added."""
    for module in (COMMON, SERVING, EXECUTOR, CONTROL):
        for name, value in vars(module).items():
            if isinstance(value, capnp.lib.capnp._EnumModule):
                assert value.schema.enumerants["unset"] == 0, name
            elif isinstance(value, capnp.lib.capnp._StructModule) and value.schema.union_fields:
                assert value.schema.union_fields[0] == "unset", name
