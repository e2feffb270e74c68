"""Where inputs and actions meet: by (epoch, action, ticket), in either order.

Rules
-----
1. The controller sends an action, gateways bring the inputs of its slots; either may come first.
   They meet only with the action's ticket (`AccessDenied`) and where they fit (`input_batch.py`);
   what does not costs its sender an error, and nobody else anything.
2. Inputs that come first wait for `patience_ns`; if their action has not come by then they are
   answered `TOO_LATE`. Those of an epoch that has passed are answered `STALE_EPOCH` at once.
3. A cancel may come before its action, too: it is remembered, and the slot left out.
4. Outputs are kept until the action's last deadline, so that the same call, asked again after a
   broken connection, gets the same answer. Asking changes nothing.
5. Everything is bounded. Inputs over `max_input_bytes` are refused (`OutboxFull`: ask again).
   Outputs over `max_output_bytes` push out the oldest that no call waits for, and so do ended
   actions over `_ENDED_MAX`.

An action without slots (a probe) never comes here.
"""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from cw.core.input_batch import (
    ActionKey,
    Batch,
    Phase,
    Tensors,
    key_of,
    name_of,
    slot_bytes,
    unserved,
)
from cw.errors import AccessDenied, OutboxFull, ProtocolViolation
from cw.messages import (
    ActionId,
    BatchInputs,
    BatchOutputs,
    CancelSlot,
    Epoch,
    Infer,
    Outcome,
    SlotInputs,
    TensorSpec,
)

_EARLY_CANCELS_MAX: Final = 16_384
"""Cancels remembered before their action comes; a forgotten one lets a slot run in vain."""

_ENDED_MAX: Final = 65_536
"""Ended actions remembered, however far their deadlines; at 1,000 a second, a minute's worth."""

_Name = tuple[Epoch, ActionId]
_Orphan = dict[tuple[CancelSlot, int], SlotInputs]


class InputBuffer:
    """All batches of one executor, from the first input or action to the last deadline.

    Args:
        max_input_bytes: Inputs held, waiting or running.
        max_output_bytes: Outputs kept for calls that may be asked again.
        patience_ns: How long inputs wait for their action.
    """

    def __init__(self, *, max_input_bytes: int, max_output_bytes: int, patience_ns: int) -> None:
        self._max_input_bytes = max_input_bytes
        self._max_output_bytes = max_output_bytes
        self._patience_ns = patience_ns
        self._epoch = Epoch(0)
        self._batches: dict[ActionKey, Batch] = {}
        self._known: set[_Name] = set()
        self._places: dict[CancelSlot, tuple[Batch, int]] = {}
        # By action, then by the ticket that they came with: only one of them can be right.
        self._orphans: dict[_Name, dict[ActionKey, _Orphan]] = {}
        self._early_cancels: OrderedDict[CancelSlot, None] = OrderedDict()
        self._waiting_calls: Counter[ActionKey] = Counter()
        self._ended: deque[Batch] = deque()
        self._expiries: list[tuple[int, int, ActionKey]] = []
        self._expiry_sequence = 0
        self.input_bytes = 0
        """Charged for inputs held now."""
        self.output_bytes = 0
        """Charged for outputs kept now."""

    def __len__(self) -> int:
        """Count the actions of which anything is known."""
        return len(self._batches) + sum(map(len, self._orphans.values()))

    # --- the gateways' side ---

    def offer(self, inputs: BatchInputs, *, now_ns: int) -> BatchOutputs | None:
        """Take a call's inputs in.

        Returns:
            The answer where it is known already. None: the call now waits; `answer` has its answer
            as soon as one is there, and it must `leave` in the end.

        Raises:
            AccessDenied: The ticket is not the action's.
            ProtocolViolation: A slot is not the action's, a tensor has another size, or the call
                brings nothing.
            OutboxFull: No room; ask again.
        """
        if not inputs.slots:
            raise ProtocolViolation(
                f"expected inputs for at least one slot of action {inputs.action_id}, got none"
            )
        key = key_of(inputs)
        batch = self._batches.get(key)
        if batch is not None:
            self._admit(batch, inputs, now_ns=now_ns)
        elif key.epoch >= self._epoch and _name(key) not in self._known:
            self._adopt(key, inputs, now_ns=now_ns)
        answer = self.answer(inputs)
        if answer is None:
            self._waiting_calls[key] += 1
        return answer

    def answer(self, inputs: BatchInputs) -> BatchOutputs | None:
        """Answer a call as far as is known; None while it has to wait. Changes nothing.

        Raises:
            AccessDenied: The ticket is not the action's.
            ProtocolViolation: A slot is not the action's, or a tensor has another size.
        """
        key = key_of(inputs)
        batch = self._batches.get(key)
        if batch is not None:
            for slot in inputs.slots:
                batch.check(slot)
            return batch.answer_to(inputs)
        if _name(key) in self._known:
            raise AccessDenied(
                f"that is not the ticket of action {key.action_id}: bring inputs only as assigned"
            )
        if key.epoch < self._epoch:
            return unserved(inputs, Outcome.STALE_EPOCH, "a newer controller has taken over")
        if key in self._orphans.get(_name(key), {}):
            return None
        return unserved(inputs, Outcome.TOO_LATE, "its action never came, or is long over")

    def leave(self, inputs: BatchInputs) -> None:
        """End a call's wait, answered or not. What it brought stays."""
        key = key_of(inputs)
        self._waiting_calls[key] -= 1
        if not self._waiting_calls[key]:
            del self._waiting_calls[key]
            self._make_room()

    def cancel(self, slot: CancelSlot, *, now_ns: int) -> ActionKey | None:
        """Leave a slot out, or throw its output away.

        Returns:
            The action that it belongs to, if one is known.
        """
        place = self._places.get(slot)
        if place is None:
            self._early_cancels[slot] = None
            if len(self._early_cancels) > _EARLY_CANCELS_MAX:
                self._early_cancels.popitem(last=False)
            return None
        batch, position = place
        freed_inputs, freed_outputs = batch.cancel(position, now_ns=now_ns)
        self.input_bytes -= freed_inputs
        self.output_bytes -= freed_outputs
        return batch.key

    # --- the lane's side ---

    def begin_epoch(self, epoch: Epoch) -> list[ActionKey]:
        """Take older inputs for stale from now on.

        Returns:
            Keys whose waiting calls have an answer now.
        """
        self._epoch = max(self._epoch, epoch)
        stale = [name for name in self._orphans if name[0] < self._epoch]
        return [key for name in stale for key in self._drop_orphans(name)]

    def expect(
        self,
        epoch: Epoch,
        action: Infer,
        specs: Sequence[TensorSpec] | None,
        *,
        keep_until_ns: int,
        now_ns: int,
    ) -> list[ActionKey]:
        """Take in an action with slots; inputs that came first meet it.

        Args:
            epoch: Of the controller that sent it.
            action: The action.
            specs: The model's inputs, in its own order; None for a model that is not known here.
            keep_until_ns: Its last deadline, on this process's clock.
            now_ns: This process's clock.

        Returns:
            Keys whose waiting calls may have an answer now: an error, if they do not fit.

        Raises:
            ProtocolViolation: An action of that id was sent before.
        """
        assert action.slots, f"action {action.action_id} is a probe and needs no inputs"
        key = ActionKey(epoch=epoch, action_id=action.action_id, ticket=action.ticket)
        if _name(key) in self._known:
            raise ProtocolViolation(
                f"expected each action once, got {action.action_id} of epoch {epoch} again: join "
                "anew, this controller's plan is not to be trusted"
            )
        batch = Batch(key, action.slots, specs, keep_until_ns=keep_until_ns)
        self._batches[key] = batch
        self._known.add(_name(key))
        for position, name in enumerate(batch.names):
            self._places[name] = (batch, position)
            if name in self._early_cancels:
                del self._early_cancels[name]
                batch.cancel(position, now_ns=now_ns)
        return self._meet(batch, now_ns=now_ns)

    def batch(self, key: ActionKey) -> Batch:
        """Return an action's batch, between `expect` and `finish`."""
        return self._batches[key]

    def finish(
        self,
        key: ActionKey,
        outcome: Outcome,
        *,
        now_ns: int,
        started_ns: int | None = None,
        device_ns: int = 0,
        outputs: Sequence[Tensors] = (),
        lane_busy_ns: Sequence[int] = (),
        detail: str = "",
    ) -> None:
        """End an action, started or not: its waiting calls have their answers now.

        Args:
            key: Which action.
            outcome: How it ended.
            now_ns: This process's clock.
            started_ns: When it started on the device, if it did.
            device_ns: Time on the device.
            outputs: Of the slots that ran, in order; none unless OK.
            lane_busy_ns: Of the same slots.
            detail: Why, for people.
        """
        batch = self._batches[key]
        freed, kept = batch.end(
            outcome,
            started_ns=started_ns,
            device_ns=device_ns,
            outputs=outputs,
            lane_busy_ns=lane_busy_ns,
            detail=detail,
        )
        self.input_bytes -= freed
        self.output_bytes += kept
        self._ended.append(batch)
        self._expire_at(max(batch.keep_until_ns, now_ns), key)
        self._make_room()

    # --- housekeeping ---

    def expire(self, *, now_ns: int) -> list[ActionKey]:
        """Forget what nobody will ask for any more.

        Returns:
            Keys whose waiting calls have an answer now: their action never came.
        """
        given_up = []
        while self._expiries and self._expiries[0][0] <= now_ns:
            _, _, key = heapq.heappop(self._expiries)
            if key in self._orphans.get(_name(key), {}):
                self._drop_orphan(key)
                given_up.append(key)
                continue
            batch = self._batches.get(key)
            if batch is None or batch.phase is not Phase.ENDED:
                continue
            if key in self._waiting_calls:
                self._expire_at(now_ns + self._patience_ns, key)
            else:
                self._forget(batch)
        while self._ended and self._ended[0].key not in self._batches:
            self._ended.popleft()
        return given_up

    # --- within ---

    def _admit(self, batch: Batch, inputs: BatchInputs, *, now_ns: int) -> None:
        for slot in inputs.slots:
            batch.check(slot)
        # By position: a call that names one twice must not count, nor be put, twice.
        wanted = {slot.position: slot for slot in inputs.slots if batch.wants(slot)}
        fresh = list(wanted.values())
        self._charge(fresh)
        batch.put(fresh, now_ns=now_ns)

    def _adopt(self, key: ActionKey, inputs: BatchInputs, *, now_ns: int) -> None:
        """Keep inputs whose action has not come."""
        orphan = self._orphans.get(_name(key), {}).get(key, {})
        named = {(name_of(slot), slot.position): slot for slot in inputs.slots}
        fresh = {name: slot for name, slot in named.items() if name not in orphan}
        self._charge(list(fresh.values()))
        if not orphan:
            self._expire_at(now_ns + self._patience_ns, key)
        self._orphans.setdefault(_name(key), {})[key] = orphan | fresh

    def _meet(self, batch: Batch, *, now_ns: int) -> list[ActionKey]:
        """Put the inputs that came first into their batch, as far as they fit."""
        orphan = self._orphans.get(_name(batch.key), {}).get(batch.key, {})
        woken = self._drop_orphans(_name(batch.key))
        for slot in orphan.values():
            try:
                batch.check(slot)
            except ProtocolViolation:
                continue  # its call learns why from `answer`
            if batch.wants(slot):
                self.input_bytes += slot_bytes(slot.tensors)
                batch.put([slot], now_ns=now_ns)
        return woken

    def _drop_orphans(self, name: _Name) -> list[ActionKey]:
        keys = list(self._orphans.get(name, {}))
        for key in keys:
            self._drop_orphan(key)
        return keys

    def _drop_orphan(self, key: ActionKey) -> None:
        tickets = self._orphans[_name(key)]
        self.input_bytes -= sum(slot_bytes(slot.tensors) for slot in tickets.pop(key).values())
        if not tickets:
            del self._orphans[_name(key)]

    def _charge(self, slots: Sequence[SlotInputs]) -> None:
        size = sum(slot_bytes(slot.tensors) for slot in slots)
        if self.input_bytes + size > self._max_input_bytes:
            raise OutboxFull(
                f"expected at most {self._max_input_bytes} bytes of waiting inputs, hold "
                f"{self.input_bytes} and got {size} more: ask again in a moment"
            )
        self.input_bytes += size

    def _make_room(self) -> None:
        """Drop the oldest outputs, and the oldest actions, that no call waits for."""
        if len(self._ended) > _ENDED_MAX and self._ended[0].key not in self._waiting_calls:
            oldest = self._ended.popleft()
            if self._batches.get(oldest.key) is oldest:
                self._forget(oldest)
        if self.output_bytes <= self._max_output_bytes:
            return
        for batch in self._ended:
            if batch.key not in self._waiting_calls:
                self.output_bytes -= batch.drop_outputs()
                if self.output_bytes <= self._max_output_bytes:
                    return

    def _expire_at(self, instant_ns: int, key: ActionKey) -> None:
        self._expiry_sequence += 1
        heapq.heappush(self._expiries, (instant_ns, self._expiry_sequence, key))

    def _forget(self, batch: Batch) -> None:
        self.output_bytes -= batch.drop_outputs()
        del self._batches[batch.key]
        self._known.discard(_name(batch.key))
        for name in batch.names:
            if self._places.get(name, (None, 0))[0] is batch:
                del self._places[name]


def _name(key: ActionKey) -> _Name:
    """Name an action without the ticket that has to be proved."""
    return key.epoch, key.action_id
