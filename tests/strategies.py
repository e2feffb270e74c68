"""Hypothesis strategies for every message, in one place: new messages join here."""

from hypothesis import strategies as st

from cw import messages as m

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1

u32s = st.integers(0, U32)
u64s = st.integers(0, U64)
attempts = st.integers(1, U32)
instants = st.integers(-(1 << 63), (1 << 63) - 1)
durations = st.integers(0, (1 << 63) - 1)
counts = st.integers(0, U64)
# Cap'n Proto's texts end at the first NUL for some of its readers: nobody may rely on one.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
tensors = st.binary(max_size=64)


def tuples(of, max_size=4):
    return st.lists(of, max_size=max_size).map(tuple)


def windows():
    return st.tuples(instants, instants).map(
        lambda ends: m.Window(earliest_ns=min(ends), latest_ns=max(ends))
    )


# --- models ---------------------------------------------------------------------------------------


def tensor_specs():
    return st.builds(
        m.TensorSpec, name=texts, datatype=st.sampled_from(m.Datatype), shape=tuples(u64s)
    )


def model_specs():
    return st.builds(
        m.ModelSpec,
        model_id=u64s,
        name=texts,
        program_sha256=texts,
        weights_sha256=texts,
        image_bytes=counts,
        inputs=tuples(tensor_specs()),
        outputs=tuples(tensor_specs()),
        batch_sizes=tuples(u32s),
        version=u32s,
    )


def profile_entries():
    return st.builds(
        m.ProfileEntry,
        batch_size=u32s,
        samples=counts,
        p50_ns=durations,
        p99_ns=durations,
        max_ns=durations,
        estimate_ns=durations,
    )


def model_statuses():
    return st.builds(
        m.ModelStatus,
        spec=model_specs(),
        state=st.sampled_from(m.ModelState),
        steps_done=u32s,
        steps_total=u32s,
        profile=tuples(profile_entries()),
        load_ns=durations,
        detail=texts,
    )


# --- requests -------------------------------------------------------------------------------------


def descriptors():
    return st.builds(
        m.Descriptor,
        request_id=u64s,
        model_id=u64s,
        tenant_id=u32s,
        arrival_ns=instants,
        deadline_ns=instants,
        attempt=attempts,
        promised=st.booleans(),
    )


def refusals():
    return st.builds(
        m.Refusal,
        reason=st.sampled_from(m.RefusalReason),
        earliest_finish_ns=st.none() | instants,
        message=texts,
    )


def failures():
    return st.builds(m.Failure, kind=st.sampled_from(m.FailureKind), message=texts)


def timings():
    return st.builds(
        m.Timing,
        total_ns=durations,
        predicted_ns=durations,
        device_ns=durations,
        lane_busy_ns=durations,
        batch_size=u32s,
        assigned_ns=durations,
        executor_ns=durations,
        waited_ns=durations,
    )


def answers():
    """Answers of each of the three kinds; exactly one is set, as a gateway makes them."""
    said = st.one_of(
        st.fixed_dictionaries({"outputs": tuples(tensors)}),
        st.fixed_dictionaries({"refusal": refusals()}),
        st.fixed_dictionaries({"failure": failures()}),
    )
    return st.builds(
        lambda timing, promised, version, said: m.Answer(
            timing=timing, promised=promised, version=version, **said
        ),
        timings(),
        st.booleans(),
        u32s,
        said,
    )


def infer_calls():
    tensor = st.builds(m.Tensor, name=texts, datatype=texts, shape=tuples(instants), data=tensors)
    return st.builds(
        m.InferCall, model=texts, inputs=tuples(tensor), slo_ns=durations, version=u32s
    )


# --- actions --------------------------------------------------------------------------------------


def slots():
    return st.builds(m.Slot, request_id=u64s, attempt=attempts, deadline_ns=instants)


def actions():
    timed = {
        "action_id": u64s,
        "planned_start_ns": instants,
        "expected_ns": durations,
        "window": windows(),
    }
    return st.one_of(
        st.builds(m.Prepare, model=model_specs(), **timed),
        st.builds(m.Load, model_id=u64s, **timed),
        st.builds(m.Unload, action_id=u64s, model_id=u64s, forget=st.booleans()),
        st.builds(
            m.Infer,
            model_id=u64s,
            batch_size=u32s,
            slots=tuples(slots()),
            ticket=u64s,
            **timed,
        ),
    )


def action_results():
    return st.builds(
        m.ActionResult,
        action_id=u64s,
        outcome=st.sampled_from(m.Outcome),
        received_ns=instants,
        ready_ns=instants,
        start_ns=instants,
        end_ns=instants,
        device_ns=durations,
        running_ns=durations,
        planned_start_ns=instants,
        expected_ns=durations,
        clock_offset_ns=instants,
        clock_error_ns=durations,
        ran=tuples(st.booleans(), max_size=70),
        detail=texts,
    )


def cancel_slots():
    return st.builds(m.CancelSlot, request_id=u64s, attempt=attempts)


def orders():
    return st.builds(
        m.Orders, epoch=u64s, actions=tuples(actions()), cancels=tuples(cancel_slots())
    )


# --- decisions ------------------------------------------------------------------------------------


def decisions():
    of = {"request_id": u64s, "attempt": attempts}
    assignment = st.builds(m.Assignment, position=u32s, **of)
    return st.one_of(
        st.builds(m.Promise, predicted_finish_ns=instants, **of),
        st.builds(m.Refuse, refusal=refusals(), **of),
        st.builds(m.Abandon, failure=failures(), **of),
        st.builds(
            m.Assign,
            epoch=u64s,
            action_id=u64s,
            ticket=u64s,
            executor_id=u64s,
            predicted_finish_ns=instants,
            assignments=tuples(assignment),
        ),
    )


def routes():
    share = st.builds(m.Share, version=u32s, percent=u32s)
    return st.builds(m.Route, name=texts, current=u64s, shares=tuples(share))


def notices():
    address = st.builds(m.ExecutorAddress, executor_id=u64s, address=texts)
    return st.builds(
        m.Notices,
        directory=tuples(st.just(m.DirectoryChange(keys_revoked=("k",))), max_size=2),
        models_added=tuples(model_specs(), max_size=2),
        models_removed=tuples(u64s),
        routes=tuples(routes(), max_size=2),
        executors_joined=tuples(address),
        executors_lost=tuples(u64s),
        decisions=tuples(decisions()),
    )


# --- reports --------------------------------------------------------------------------------------


def gateway_reports():
    of = {"request_id": u64s, "attempt": attempts}
    return st.one_of(
        descriptors(),
        st.builds(m.Settled, outcome=st.sampled_from(m.SettledAs), finished_ns=instants, **of),
        st.builds(m.AttemptFailed, detail=texts, **of),
        st.builds(m.Cancel, **of),
    )


def gateway_hellos():
    return st.builds(m.GatewayHello, name=texts, previous_id=st.none() | u64s)


def gateway_welcomes():
    return st.builds(m.GatewayWelcome, epoch=u64s, gateway_id=u64s)


def devices():
    return st.builds(
        m.DeviceDescription,
        kind=texts,
        name=texts,
        pages_total=counts,
        shared_lanes=st.booleans(),
        load_bytes_per_second=counts,
    )


def executor_hellos():
    return st.builds(
        m.ExecutorHello,
        name=texts,
        incarnation=u64s,
        data_address=texts,
        device=devices(),
        prepared=tuples(u64s),
        resident=tuples(u64s),
    )


def executor_welcomes():
    return st.builds(m.ExecutorWelcome, epoch=u64s, executor_id=u64s)


def pongs():
    return st.builds(m.Pong, received_ns=instants, replied_ns=instants)


# --- payloads -------------------------------------------------------------------------------------


def batch_inputs():
    slot = st.builds(
        m.SlotInputs,
        position=u32s,
        request_id=u64s,
        attempt=attempts,
        arrival_ns=instants,
        tensors=tuples(tensors),
    )
    return st.builds(m.BatchInputs, epoch=u64s, action_id=u64s, ticket=u64s, slots=tuples(slot))


def batch_outputs():
    slot = st.builds(
        m.SlotOutputs,
        position=u32s,
        outputs=st.none() | tuples(tensors),
        lane_busy_ns=durations,
    )
    return st.builds(
        m.BatchOutputs,
        outcome=st.sampled_from(m.Outcome),
        device_ns=durations,
        batch_size=u32s,
        slots=tuples(slot),
        detail=texts,
        executor_ns=durations,
        waited_ns=durations,
    )


# --- status ---------------------------------------------------------------------------------------


def executor_statuses():
    return st.builds(
        m.ExecutorStatus,
        executor_id=u64s,
        name=texts,
        state=texts,
        device=texts,
        pages_total=counts,
        pages_free=counts,
        resident=tuples(texts),
        utilisation=st.floats(allow_nan=False),
    )


def ledgers():
    by_name = tuples(st.tuples(texts, counts))
    return st.builds(
        m.Ledger, requests=counts, kept=counts, refused=by_name, broken=by_name, failed=by_name
    )


def cell_statuses():
    return st.builds(
        m.CellStatus,
        cell=st.integers(0, 2**16 - 1),
        epoch=u64s,
        executors=tuples(texts),
        queued=counts,
        ledger=ledgers(),
    )


def cluster_statuses():
    return st.builds(
        m.ClusterStatus,
        epoch=u64s,
        queued=counts,
        executors=tuples(executor_statuses()),
        models=tuples(model_statuses(), max_size=2),
        ledger=ledgers(),
        cells=tuples(cell_statuses(), max_size=2),
    )
