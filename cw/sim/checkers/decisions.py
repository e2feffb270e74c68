"""Decisions stand, and say what the caller needs."""

from collections import OrderedDict
from typing import Final

import attrs

from cw.messages import (
    Abandon,
    Assign,
    Attempt,
    Decision,
    ExecutorId,
    Promise,
    Refusal,
    RefusalReason,
    Refuse,
    RequestId,
)
from cw.sim.checkers.checker import Checker, InvariantBroken, require
from cw.sim.journal import RequestRecord

_REMEMBERED: Final = 1 << 16
"""Of answered requests the last so many are still watched for late decisions."""
_TELLS_WHEN: Final = frozenset(
    {RefusalReason.OVERLOAD, RefusalReason.DEADLINE_TOO_SHORT, RefusalReason.COLD}
)
_NOBODY: Final = Attempt(0)


@attrs.define(eq=False)
class _Word:
    """What the controller has said about one request."""

    deadline_ns: int
    promised: bool = False
    attempt: Attempt = _NOBODY
    final: Decision | None = None


class DecisionsStand(Checker):
    """What the controller said stays said.

    A final decision is the last word on a request; a promised request is never refused; a first
    promise lies before the deadline; attempts are counted upwards; nothing is decided about a
    request that nobody made; and a refusal for want of time says when there would have been some.
    """

    def __init__(self) -> None:
        self._words: dict[RequestId, _Word] = {}
        self._closed: OrderedDict[RequestId, _Word] = OrderedDict()

    def arrived(self, record: RequestRecord) -> None:
        """See `Checker`."""
        self._words[record.request_id] = _Word(record.deadline_ns)

    def answered(self, record: RequestRecord) -> None:
        """See `Checker`."""
        self._closed[record.request_id] = self._words.pop(record.request_id)
        if len(self._closed) > _REMEMBERED:
            self._closed.popitem(last=False)

    def decided(self, decision: Decision, *, on: ExecutorId | None, now_ns: int) -> None:
        """See `Checker`."""
        del on, now_ns
        match decision:
            case Assign(assignments=assignments):
                for place in assignments:
                    word = self._word(place.request_id, decision)
                    if place.attempt <= word.attempt:
                        raise InvariantBroken(
                            f"attempt {place.attempt} of {place.request_id} was assigned after "
                            f"{word.attempt}"
                        )
                    word.attempt, word.promised = place.attempt, True
            case Promise(request_id=request_id, predicted_finish_ns=finish_ns):
                word = self._word(request_id, decision)
                require(
                    word.promised or finish_ns <= word.deadline_ns,
                    lambda: (
                        f"promised for {finish_ns}, after the deadline {word.deadline_ns}: "
                        f"{decision}"
                    ),
                )
                word.promised = True
            case Refuse(request_id=request_id, refusal=refusal):
                word = self._word(request_id, decision)
                require(not word.promised, lambda: f"refused after its promise: {decision}")
                _tells_when(refusal)
                word.final = decision
            case Abandon(request_id=request_id):
                self._word(request_id, decision).final = decision

    def _word(self, request_id: RequestId, decision: Decision) -> _Word:
        """Find what was said before; there must be something open to speak of."""
        word = self._words.get(request_id) or self._closed.get(request_id)
        require(
            word is not None,
            lambda: f"decided about what nobody asks, or asked long ago: {decision}",
        )
        assert word is not None
        require(word.final is None, lambda: f"{decision} after {word.final}")
        return word


def _tells_when(refusal: Refusal) -> None:
    require(
        refusal.earliest_finish_ns is not None or refusal.reason not in _TELLS_WHEN,
        lambda: f"a refusal that does not say when it could have been: {refusal}",
    )
