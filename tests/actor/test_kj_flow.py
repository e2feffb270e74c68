"""Flow limits: whoever the peer is, one connection holds a bounded number of calls and bytes."""

import random
import socket
from pathlib import Path

import capnp
import pytest
import trio
import trio.testing

from cw.errors import PeerDisconnected
from cw.rpc.kj_connection import connect, open_connection
from cw.rpc.kj_flow import BOOTSTRAP, CALL, RETURN, FlowLimits, MessageMeter, SendBudget
from cw.rpc.kj_loop import open_kj
from tests.actor.kj_probe import (
    IMPORTS,
    dial_raw,
    in_memory,
    process,
    resident_bytes,
    schema,
    served_here,
    until,
)

rpc = capnp.load(str(Path(capnp.__file__).with_name("rpc.capnp")), imports=IMPORTS)
INTERFACE = schema.Probe.schema.node.id
METHODS = ["echo", "echoLater", "note", "nap", "fail", "waitTooEarly", "counts", "probe"]


def bootstrap_message(question):
    message = rpc.Message.new_message()
    message.init("bootstrap").questionId = question
    return message.to_bytes()


def call_message(question, method, *, first_segment_words=None, **params):
    """Build a Call as any client might send it, to the (promised) first capability."""
    message = rpc.Message.new_message(first_segment_words)
    call = message.init("call")
    call.questionId, call.interfaceId, call.methodId = question, INTERFACE, METHODS.index(method)
    call.init("target").init("promisedAnswer").questionId = 0
    content = call.init("params").content.as_struct(schema.Probe.schema.methods[method].param_type)
    for name, value in params.items():
        setattr(content, name, value)
    return message.to_bytes()


def meter_reports(stream, sizes):
    """Feed ``stream`` in pieces of the given sizes, over and over; return what was reported."""
    reports, at, turn = [], 0, 0
    meter = MessageMeter(lambda *report: reports.append(report))
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        meter.feed(memoryview(stream)[at : at + size])
        at, turn = at + size, turn + 1
    return reports, meter.unfinished_bytes == 0


@pytest.mark.parametrize("sizes", [[1], [7, 8, 9], [64], [1 << 20], [8, 1 << 20]])
def test_messages_are_told_apart_however_the_bytes_are_cut(sizes):
    """Sockets cut where they like, and the accounts must be the same."""
    messages = [
        bootstrap_message(0),
        call_message(7, "echo", data=b"x" * 1000),
        call_message(8, "note", number=1),
        return_message(9),
        call_message(10, "echo", data=b""),
    ]
    reports, is_between = meter_reports(b"".join(messages), sizes)

    assert [(kind, number) for kind, number, _, _ in reports] == [
        (BOOTSTRAP, 0),
        (CALL, 7),
        (CALL, 8),
        (RETURN, 9),
        (CALL, 10),
    ]
    assert [size for _, _, size, _ in reports] == [len(message) for message in messages]
    assert is_between


def return_message(question):
    message = rpc.Message.new_message()
    message.init("return").answerId = question
    return message.to_bytes()


def test_a_call_spread_over_segments_is_counted_with_its_size():
    """A peer may lay its messages out oddly; that must not let it past the budget."""
    odd = call_message(3, "echo", first_segment_words=1, data=b"x" * 50_000)
    plain = call_message(4, "echo", data=b"x")
    assert odd[0] > 0, "the message has but one segment, and tests nothing"
    for sizes in ([1], [8], [1 << 20]):
        reports, is_between = meter_reports(odd + plain, sizes)
        assert [report[0] for report in reports] == [CALL, CALL]
        assert [report[2] for report in reports] == [len(odd), len(plain)]
        assert is_between


def test_garbage_is_neither_reported_nor_kept():
    """What is not Cap'n Proto is the library's to refuse; the meter must not choke on it."""
    for garbage in (
        b"\xff" * 1000,
        b"GET / HTTP/1.1\r\n\r\n" * 50,
        random.Random(1).randbytes(999),
    ):
        reports, _ = meter_reports(garbage, [13])
        assert len(reports) <= 1


async def test_open_calls_stay_within_the_bound_for_a_client_without_manners():
    """3,000 calls at once, no slot asked for: at most 16 are open, and all are answered."""
    async with served_here(FlowLimits(max_open_calls=16)) as (address, made):
        async with connect(address) as connection:
            probe = connection.bootstrap(schema.Probe)
            answers = [probe.echoLater(bytes([n % 256])) for n in range(3000)]
            for number, answer in enumerate(answers):
                assert (await answer).data == bytes([number % 256])
        assert made[0].connection.open_calls_peak == 16


async def test_memory_stays_bounded_for_a_client_without_manners():
    """300 calls of 600 KB that nap: 180 MB are asked for, a few of them are held."""
    async with process("serve", 1024, 4 << 20) as (server, address), open_kj():
        async with connect(address) as connection:
            probe = connection.bootstrap(schema.Probe)
            await probe.echo(bytes(600_000))
            before_bytes, peak_bytes = resident_bytes(server.pid), 0
            answers = [probe.nap(5, bytes(600_000)) for _ in range(300)]
            for answer in answers:
                await answer
                peak_bytes = max(peak_bytes, resident_bytes(server.pid))

    assert peak_bytes - before_bytes < 60 << 20


async def test_calls_that_wait_inside_the_library_are_open_too():
    """Calls to a capability that is only promised start no handler, yet they hold memory."""
    async with in_memory(FlowLimits(max_open_calls=8)) as (probe, _, server):
        promised = probe.napProbe(50).probe
        answers = [promised.note(number) for number in range(100)]
        for answer in answers:
            await answer

        assert server.connection.open_calls_peak == 8
        assert server.handed_out[0].noted == list(range(100))


async def test_answers_that_nobody_reads_are_open_too():
    """A client that asks and does not listen is not read either: no answers pile up."""
    limits = FlowLimits(max_open_calls=10_000, max_open_bytes=4 << 20)
    data = bytes(200_000)
    async with served_here(limits) as (address, made):
        deaf = await dial_raw(address)
        sent = 0
        await deaf.send_all(bootstrap_message(0))
        with trio.move_on_after(1):
            for sent in range(1, 1000):
                await deaf.send_all(call_message(sent, "echo", data=data))

        assert 10 < sent < 200, "sending never got stuck"
        assert made[0].connection.open_bytes < limits.max_open_bytes + len(data) + 1000
        await trio.aclose_forcefully(deaf)
        await until(lambda: not made[0].connection.is_open)


async def test_a_client_that_never_finishes_its_answers_is_cut_off():
    """The library keeps each answer until the client says Finish: a leak in the client's hands."""
    async with served_here(FlowLimits(max_unfinished_answers=100)) as (address, made):
        greedy = await dial_raw(address)
        await greedy.send_all(bootstrap_message(0))
        with pytest.raises((trio.BrokenResourceError, EOFError)), trio.fail_after(10):
            for question in range(1, 1000):
                await greedy.send_all(call_message(question, "probe"))
                if not await greedy.receive_some(65_536):
                    raise EOFError
        await until(lambda: not made[0].connection.is_open)
        await trio.aclose_forcefully(greedy)


async def test_cancels_leave_nothing_open_nor_unfinished(autojump_clock):
    """A cancelled call's Finish comes before its Return; both accounts must close."""
    async with in_memory(FlowLimits(max_unfinished_answers=20)) as (probe, connection, server):
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(nap_for_a_minute, probe)
        await probe.echo(b"x")
        await trio.testing.wait_all_tasks_blocked()

        assert (server.begun, server.cancelled) == (50, 50)
        assert (server.connection.open_calls, server.connection.open_bytes) == (0, 0)
        assert connection.is_open


async def nap_for_a_minute(probe):
    await probe.nap(60_000, b"x")


async def test_a_call_cancelled_before_its_task_began_goes_no_further():
    """Its Finish came in the same bytes: past detached() there is no memory left to work on."""
    async with served_here() as (address, made):
        client = await dial_raw(address)
        nap = call_message(1, "nap", milliseconds=60_000) + finish_message(1)
        echo = call_message(2, "echoLater", data=b"x") + finish_message(2)  # One of `served`.
        await client.send_all(bootstrap_message(0) + nap + echo)
        await until(lambda: made and made[0].begun and not made[0].connection.open_calls)
        await trio.aclose_forcefully(client)
        await until(lambda: not made[0].connection.is_open)

        assert (made[0].begun, made[0].cancelled) == (1, 0)


def finish_message(question):
    message = rpc.Message.new_message()
    message.init("finish").questionId = question
    return message.to_bytes()


async def test_a_throttled_client_that_vanishes_is_noticed():
    """A connection that is not read does not show its end; yet its calls must be cancelled."""
    async with served_here(FlowLimits(max_open_calls=4)) as (address, made):
        async with process("nap", address, 50) as (client, _):
            await until(lambda: made[0].begun == 4)
            client.kill()
            await until(lambda: made[0].cancelled == 4)
        await until(lambda: not made[0].connection.is_open)


async def test_callers_wait_in_line_for_a_slot(autojump_clock):
    """The client's own bound: never more open, first come first served, a cancel steps out."""
    async with in_memory(FlowLimits(max_open_calls=2)) as (probe, connection, server):
        order = []

        async def caller(number):
            async with connection.slot(100):
                order.append(number)
                await probe.nap(1000 + number, b"x")  # So that one leaves at a time.

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(caller, number)
                await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.5) as scope:
                await caller(99)
            assert scope.cancelled_caught

        assert order == list(range(6))
        assert server.connection.open_calls_peak == 2
        assert (connection.sent_calls, connection.sent_bytes) == (0, 0)


async def test_a_slot_larger_than_the_budget_goes_alone(autojump_clock):
    """Else one large model input could never be sent at all."""
    budget = SendBudget(FlowLimits(max_open_bytes=1000), lambda: False)
    async with budget.slot(5000):
        with trio.move_on_after(1) as scope:
            await budget.acquire(1)
        assert scope.cancelled_caught
    async with budget.slot(400), budget.slot(600):
        assert budget.open_bytes == 1000


async def test_timed_out_calls_to_a_stuck_peer_keep_their_room():
    """Their bytes are still queued: were the room free again, each timeout would add to them."""
    ours, stuck = socket.socketpair()
    limits = FlowLimits(max_open_bytes=10 << 20)
    admitted = 0
    async with open_kj(), open_connection(ours, "stuck", limits=limits) as connection:
        probe = connection.bootstrap(schema.Probe)

        async def caller():
            nonlocal admitted
            async with connection.slot(600_000):
                admitted += 1
                await probe.echo(bytes(600_000))

        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(caller)
        with trio.move_on_after(0.2) as scope:
            await caller()

        assert scope.cancelled_caught
        assert admitted == (10 << 20) // 600_000
        assert connection.sent_bytes == admitted * 600_000
        stuck.close()
        await connection.wait_disconnected()
        assert connection.sent_bytes == 0
        with pytest.raises(PeerDisconnected), connection.errors():
            await probe.echo(b"x")
