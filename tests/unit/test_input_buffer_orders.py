"""InputBuffer under any order of events at all."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cw.core.input_batch import ActionKey, Phase, key_of, slot_bytes
from cw.core.lane import Inputs
from cw.errors import AccessDenied
from cw.messages import BatchInputs, Outcome
from cw.units import MS, SECOND
from tests.unit.batches import brought, cancel_of, expect, finish_ok, infer, make


class AnyOrder(RuleBasedStateMachine):
    """Whatever the order: bytes add up, every call is answered, and in the end nothing is left."""

    @initialize()
    def begin(self):
        self.buffer = make()
        self.now_ns = 0
        self.waiting: list[BatchInputs] = []

    def keys(self, phase):
        known = (key_of(brought(action_id=n)) for n in range(4))
        return [k for k in known if self.phase(k) is phase]

    def phase(self, key: ActionKey):
        batch = self.buffer._batches.get(key)
        return batch and batch.phase

    @rule(action=st.integers(0, 3), positions=st.sets(st.integers(0, 2), min_size=1))
    def bring(self, action, positions):
        call = brought(*positions, action_id=action)
        if self.buffer.offer(call, now_ns=self.now_ns) is None:
            self.waiting.append(call)

    @rule(action=st.integers(0, 3), ticket=st.integers(20, 22))
    def guess(self, action, ticket):
        try:
            call = brought(0, action_id=action, ticket=ticket)
            if self.buffer.offer(call, now_ns=self.now_ns) is None:
                self.waiting.append(call)
        except AccessDenied:
            pass

    @rule(action=st.integers(0, 3))
    def order(self, action):
        key = key_of(brought(action_id=action))
        if self.phase(key) is None:
            expect(self.buffer, infer(3, action_id=action), now_ns=self.now_ns)

    @rule(position=st.integers(0, 2))
    def cancel(self, position):
        self.buffer.cancel(cancel_of(position), now_ns=self.now_ns)

    @rule()
    def run(self):
        for key in self.keys(Phase.EXPECTED):
            if self.buffer.batch(key).presence in {Inputs.ALL, Inputs.SOME}:
                self.buffer.batch(key).start()

    @rule(ok=st.booleans())
    def end(self, ok):
        for key in self.keys(Phase.RUNNING if ok else Phase.EXPECTED):
            if ok:
                finish_ok(self.buffer, key, now_ns=self.now_ns)
            else:
                self.buffer.finish(key, Outcome.TOO_LATE, now_ns=self.now_ns)

    @rule(passed_ns=st.sampled_from([MS, 60 * MS, 2 * SECOND]))
    def wait(self, passed_ns):
        self.now_ns += passed_ns
        self.buffer.expire(now_ns=self.now_ns)

    @rule()
    def answer(self):
        still = []
        for call in self.waiting:
            try:
                done = self.buffer.answer(call) is not None
            except AccessDenied:
                done = True
            if done:
                self.buffer.leave(call)
            else:
                still.append(call)
        self.waiting = still

    @invariant()
    def bytes_add_up(self):
        held = [
            state.inputs.tensors
            for batch in self.buffer._batches.values()
            for state in batch._slots
            if state.inputs
        ]
        orphans = [
            slot.tensors
            for tickets in self.buffer._orphans.values()
            for orphan in tickets.values()
            for slot in orphan.values()
        ]
        kept = [s.outputs for b in self.buffer._batches.values() for s in b._slots]
        assert self.buffer.input_bytes == sum(map(slot_bytes, held + orphans))
        assert self.buffer.output_bytes == sum(map(slot_bytes, kept))

    def teardown(self):
        self.run()
        self.end(True)
        self.end(False)
        self.wait(2 * SECOND)
        self.answer()
        self.wait(2 * SECOND)
        assert self.waiting == []
        assert len(self.buffer) == 0
        assert self.buffer.input_bytes == self.buffer.output_bytes == 0
        assert not self.buffer._places
        assert not self.buffer._known


TestAnyOrder = AnyOrder.TestCase
