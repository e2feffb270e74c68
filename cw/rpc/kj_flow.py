"""Flow limits of one Cap'n Proto connection, read off its own bytes.

Cap'n Proto bounds nothing: a peer may open any number of calls and queue any number of bytes.
So both directions of a connection are followed message by message (:class:`MessageMeter`), and
the budget is kept in the protocol's own terms: a call is *open* from the moment its Call message
arrives until its Return message is handed to the socket.  That holds whoever the peer is and
whatever its calls do: calls that wait inside the C++ library for a promised capability, calls
that fail there, and answers that the peer does not read are all counted.

* Server's side: :class:`OpenCalls`; past the budget the transport stops reading, TCP does the rest.
* Client's side: :class:`SendBudget`; callers wait here before they send.

A connection past its budget reads nothing, cancels included: no handler may wait for an answer
from the peer whose call it is serving.  Knows nothing of capnp objects, sockets or handlers;
the neighbours are ``kj_transport`` (feeds the bytes) and ``kj_connection`` (hands out slots).
"""

import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import attrs
import trio

from cw.rpc.kj_rate import CallRate

# rpc.capnp: discriminants of the union in ``Message``.
CALL: Final = 2
RETURN: Final = 3
FINISH: Final = 4
BOOTSTRAP: Final = 8

CALL_BYTES_MIN: Final = 64
"""No Call that reaches a method is shorter: table, root, Message, Call, target, one word each."""

_WORD: Final = 8
_HEAD_WORDS: Final = 7  # As laid out by every known writer, the body's id is in the first five.
_SEGMENTS_MAX: Final = 512  # capnp refuses messages with more, and closes.
_NO_FINISH_BIT: Final = 1 << 33  # Return.noFinishNeeded, in the struct's first word.
_SIZES: Final = struct.Struct("<II")
_POINTER: Final = struct.Struct("<iI")
_WORD64: Final = struct.Struct("<Q")


@attrs.frozen(kw_only=True)
class FlowLimits:
    """What one connection may hold open at a time."""

    max_open_calls: int = attrs.field(default=1024, validator=attrs.validators.ge(1))
    """Calls not yet answered; at the bound a server stops reading, a client's callers wait."""

    max_open_bytes: int = attrs.field(default=64 << 20, validator=attrs.validators.ge(1))
    """Bytes of those calls' messages; one more message may begin as long as it is not reached."""

    max_message_bytes: int = attrs.field(default=64 << 20, validator=attrs.validators.ge(1024))
    """Largest message taken from the peer; a larger one closes the connection."""

    max_unfinished_answers: int = attrs.field(default=65_536, validator=attrs.validators.ge(1))
    """Answers kept because the peer has not sent Finish; past it the peer is cut off."""

    max_calls_per_s: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    """Calls that the peer may begin in a second; past it nothing is read. 0: any number."""

    max_nesting: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    """Pointers to follow one inside the other; a message that asks for more fails."""


class MessageMeter:
    """Cuts one direction of a connection into messages and reports each by kind, id and size.

    It only watches: garbage is left for the C++ library to refuse, and is not reported.
    """

    def __init__(self, on_message: Callable[[int, int | None, int, bool], None]) -> None:
        """Report to ``on_message(kind, id, size in bytes, finish needed)``.

        The id is None where the message is laid out so oddly that it is not in its first words.
        """
        self.messages = 0
        self._on_message = on_message
        self._head = bytearray()
        self._head_bytes = _WORD  # How much of the message to gather before it can be told.
        self._table_bytes = 0
        self._size_bytes = 0
        self._left_bytes = 0

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of the message in progress still to come, as far as known; 0 between messages."""
        if self._left_bytes:
            return self._left_bytes
        return self._head_bytes - len(self._head) if self._head else 0

    def feed(self, data: bytes | memoryview) -> None:
        """Follow the next bytes of the stream."""
        at, end = 0, len(data)
        while at < end:
            if self._left_bytes:
                step = min(self._left_bytes, end - at)
                self._left_bytes -= step
                at += step
                continue
            step = min(self._head_bytes - len(self._head), end - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == self._head_bytes:
                self._advance()

    def _advance(self) -> None:
        """Learn what the bytes gathered so far tell: first the sizes, then kind and id."""
        head = self._head
        if not self._table_bytes:
            segments, first_words = _SIZES.unpack_from(head)
            segments += 1
            if segments > _SEGMENTS_MAX:
                self._left_bytes = 1 << 62  # Not Cap'n Proto: nothing more to learn here.
                head.clear()
                return
            self._table_bytes = (4 * (segments + 1) + 7) & ~7
            if self._table_bytes > _WORD:
                self._head_bytes = self._table_bytes
                return
            self._plan_head(first_words)
        elif not self._size_bytes:  # The whole table of a message of several segments is here.
            segments = int.from_bytes(head[:4], "little") + 1
            self._plan_head(sum(struct.unpack_from(f"<{segments}I", head, 4)))
        if len(head) == self._head_bytes:
            self._report()

    def _plan_head(self, body_words: int) -> None:
        self._size_bytes = self._table_bytes + _WORD * body_words
        self._head_bytes = min(self._size_bytes, self._table_bytes + _WORD * _HEAD_WORDS)

    def _report(self) -> None:
        head, size_bytes = self._head, self._size_bytes
        kind, number, finish_needed = _kind_and_id(head, self._table_bytes)
        self._left_bytes = size_bytes - len(head)
        self._head = bytearray()
        self._head_bytes, self._table_bytes, self._size_bytes = _WORD, 0, 0
        self.messages += 1
        self._on_message(kind, number, size_bytes, finish_needed)


def _kind_and_id(head: bytearray, root_at: int) -> tuple[int, int | None, bool]:
    """Read an rpc.capnp ``Message``: its kind, the question's id, whether a Finish follows.

    Args:
        head: The message's first words, segment table included.
        root_at: Where the root pointer lies in ``head``.

    Returns:
        A call with no id where the head cannot be read; no id where only the body cannot.
    """
    message_at = _target(head, root_at)
    if message_at is None:
        return CALL, None, True  # Far pointers: legal and never seen.  Counted, to be safe.
    kind = head[message_at] | head[message_at + 1] << 8
    body_at = _target(head, message_at + _WORD)
    if body_at is None:
        return kind, None, True
    first_word = _WORD64.unpack_from(head, body_at)[0]
    return kind, first_word & 0xFFFF_FFFF, not first_word & _NO_FINISH_BIT


def _target(head: bytearray, pointer_at: int) -> int | None:
    """Follow a near struct pointer; None when it is no such pointer or leads out of ``head``."""
    if pointer_at + _WORD > len(head):
        return None
    low, _ = _POINTER.unpack_from(head, pointer_at)
    if low & 3:
        return None
    target = pointer_at + _WORD + (low >> 2) * _WORD
    return target if 0 <= target <= len(head) - _WORD else None


class OpenCalls:
    """The peer's calls that this side has not answered yet.

    Attributes:
        open_bytes: Sum of the sizes of their Call messages.
        open_calls_peak: The most that were ever open at once.
    """

    def __init__(self, limits: FlowLimits, on_room: Callable[[], None]) -> None:
        """Keep within ``limits``; ``on_room`` is called when answers end an excess."""
        self._limits = limits
        self._on_room = on_room
        self._rate = CallRate(limits.max_calls_per_s)
        self._bytes_by_id: dict[int | None, int] = {}
        self._oddities = 0
        self._cancelled: set[int | None] = set()
        self._unfinished: set[int | None] = set()
        self.open_bytes = 0
        self.open_calls_peak = 0

    @property
    def open_calls(self) -> int:
        """How many calls are open now."""
        return len(self._bytes_by_id)

    @property
    def room_bytes(self) -> int:
        """Bytes of further calls that the budget has room for, however small they are; or 0."""
        calls = min(self._limits.max_open_calls - len(self._bytes_by_id), self._rate.left)
        room = min(calls * CALL_BYTES_MIN, self._limits.max_open_bytes - self.open_bytes)
        return max(room, 0)

    @property
    def is_abused(self) -> bool:
        """True when the peer leaves more answers unfinished than it may."""
        return len(self._unfinished) > self._limits.max_unfinished_answers

    def received(self, kind: int, number: int | None, size_bytes: int, _: bool) -> None:
        """Take note of a message from the peer."""
        if kind in (CALL, BOOTSTRAP):
            self._rate.take()
            if number is None:
                # Cannot be matched with its Return: it stays open for good.  A peer that
                # writes messages so stalls itself, and nobody else.
                self._oddities += 1
                number = -self._oddities
            self.open_bytes += size_bytes - self._bytes_by_id.get(number, 0)
            self._bytes_by_id[number] = size_bytes
            self.open_calls_peak = max(self.open_calls_peak, len(self._bytes_by_id))
        elif kind == FINISH and number in self._bytes_by_id:
            self._cancelled.add(number)
        elif kind == FINISH:
            self._unfinished.discard(number)

    def sent(self, kind: int, number: int | None, _: int, finish_needed: bool) -> None:
        """Take note of a message to the peer."""
        if kind != RETURN or number not in self._bytes_by_id:
            return
        was_full = not self.room_bytes
        self.open_bytes -= self._bytes_by_id.pop(number)
        if number in self._cancelled:
            self._cancelled.discard(number)  # Its Finish came first.
        elif finish_needed:
            self._unfinished.add(number)
        if was_full and self.room_bytes:
            self._on_room()


class SendBudget:
    """Bounds what this side has asked of the peer and not yet got; callers wait in line.

    A call given up while the socket was blocked still has its bytes queued: its room is lent on
    until the queue has drained (:meth:`drained`), so a peer that stops reading costs at most
    ``max_open_bytes``, however many callers time out.
    """

    def __init__(self, limits: FlowLimits, is_backlogged: Callable[[], bool]) -> None:
        """Keep within ``limits``; ``is_backlogged`` says whether unsent bytes are queued."""
        self._limits = limits
        self._is_backlogged = is_backlogged
        self._waiting: deque[tuple[int, trio.Event]] = deque()
        self._lingering: list[int] = []
        self.open_calls = 0
        self.open_bytes = 0

    def slot(self, call_bytes: int) -> "Slot":
        """Return a context manager that holds room for one call of ``call_bytes``."""
        return Slot(self, call_bytes)

    def drained(self) -> None:
        """Free the room of abandoned calls: the transport has written all that was queued."""
        lingering, self._lingering = self._lingering, []
        for call_bytes in lingering:
            self._free(call_bytes)

    async def acquire(self, call_bytes: int) -> None:
        """Wait, first come first served, until a call of ``call_bytes`` fits, and claim it.

        A call larger than the whole budget goes out when it is alone.
        """
        if not self._waiting and self._fits(call_bytes):
            self._claim(call_bytes)
            return
        ticket = (call_bytes, trio.Event())
        self._waiting.append(ticket)
        has_room = False
        try:
            await ticket[1].wait()
            has_room = True
        finally:
            if not has_room and ticket[1].is_set():  # Cancelled after all: hand the room on.
                self._free(call_bytes)
            elif not has_room:
                self._waiting.remove(ticket)
                self._admit()

    def release(self, call_bytes: int, *, answered: bool) -> None:
        """Give room back after a call; ``answered`` is False when it was given up or failed."""
        if not answered and self._is_backlogged():
            self._lingering.append(call_bytes)
        else:
            self._free(call_bytes)

    def _fits(self, call_bytes: int) -> bool:
        if not self.open_calls:
            return True
        return (
            self.open_calls < self._limits.max_open_calls
            and self.open_bytes + call_bytes <= self._limits.max_open_bytes
        )

    def _claim(self, call_bytes: int) -> None:
        self.open_calls += 1
        self.open_bytes += call_bytes

    def _free(self, call_bytes: int) -> None:
        self.open_calls -= 1
        self.open_bytes -= call_bytes
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            call_bytes, event = self._waiting.popleft()
            self._claim(call_bytes)
            event.set()


class Slot:
    """Room for one outgoing call, held for the length of an ``async with`` block."""

    __slots__ = ("_budget", "_call_bytes")

    def __init__(self, budget: SendBudget, call_bytes: int) -> None:
        """Made by :meth:`SendBudget.slot`."""
        self._budget = budget
        self._call_bytes = call_bytes

    async def __aenter__(self) -> Self:
        """Wait for the room."""
        await self._budget.acquire(self._call_bytes)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the room back."""
        self._budget.release(self._call_bytes, answered=kind is None)
