"""The load generator is open: what it offers depends on nothing that the server does."""

import attrs
import pytest
import trio

from cw.actors.clock import now_ns
from cw.benchmarks.peers.measuring import LATE_GENERATOR_NS, judge
from cw.units import MS, SECOND
from cw.workload.client import run_open_loop
from tests.peers.peer_fakes import answered, samples

DURATIONS = {1: 10 * MS, 2: 12 * MS}


@attrs.define
class SlowClient:
    """Answers rightly, each request after the same time; may hold the generator up at the first."""

    takes_s: float
    clock: trio.testing.MockClock | None = None
    sent_ns: list[int] = attrs.field(factory=list)

    async def infer(self, model, inputs, *, slo, started_ns=None):
        self.sent_ns.append(now_ns())
        if self.clock is not None and len(self.sent_ns) == 1:
            self.clock.jump(0.05)
        await trio.sleep(self.takes_s)
        return answered(inputs["image"])


async def _run(client, slo_ns=25 * MS):
    plan = samples().plan(rate_rps=200, seconds=1.0, seed=1)
    return plan, await run_open_loop(client, plan, slo_ns=slo_ns, keep_results=True)


async def test_arrivals_do_not_wait_for_answers(autojump_clock):
    """A closed loop would offer one request a minute to this server, and hide its queue."""
    client = SlowClient(takes_s=60)
    plan, sent = await _run(client)

    begin_ns = client.sent_ns[0] - plan[0].at_ns
    late_ns = [
        at - begin_ns - planned.at_ns for at, planned in zip(client.sent_ns, plan, strict=True)
    ]
    assert len(sent) == len(plan) > 150
    assert max(late_ns) < MS
    assert min(entry.latency_ns for entry in sent) >= 60 * SECOND


async def test_latency_counts_from_the_scheduled_arrival(autojump_clock):
    """A generator that was held up must not make the server look quicker than users saw it."""
    client = SlowClient(takes_s=0.01, clock=autojump_clock)
    _, sent = await _run(client)

    second = sent[1]
    assert second.lateness_ns > 20 * MS
    assert second.latency_ns == pytest.approx(second.lateness_ns + 10 * MS, abs=MS)


async def test_a_late_generator_is_reported(autojump_clock):
    """Its cells show another load than was meant: readers must be told."""
    on_time = (await _run(SlowClient(takes_s=0.01)))[1]
    held_up = (await _run(SlowClient(takes_s=0.01, clock=autojump_clock)))[1]

    found = [judge(sent, samples(), seconds=1, durations=DURATIONS) for sent in (on_time, held_up)]
    assert [each["generator_late"] for each in found] == [False, True]
    assert found[1]["sent_late_ms_p99"] > LATE_GENERATOR_NS / MS


async def test_answers_are_counted_within_each_slo(autojump_clock):
    """One run fills three columns for a server that can't be told of an SLO."""
    _, sent = await _run(SlowClient(takes_s=0.03))

    found = judge(sent, samples(), seconds=1, durations=DURATIONS)
    assert found["within"] == {"25": 0, "50": len(sent), "100": len(sent)}
    assert found["latency_ms"]["p50"] == pytest.approx(30, abs=1)


async def test_another_models_answer_is_wrong_however_quick(autojump_clock):
    """A server that mixes up its models must not win by it."""

    class Mixed(SlowClient):
        async def infer(self, model, inputs, *, slo, started_ns=None):
            await trio.sleep(self.takes_s)
            return answered(inputs["image"] + (model == "b"))

    _, sent = await _run(Mixed(takes_s=0.001))

    asked = sum(entry.planned.model == "b" for entry in sent)
    found = judge(sent, samples(), seconds=1, durations=DURATIONS)
    assert found["wrong"] == asked > 0
    assert found["within"]["25"] == len(sent) - asked


async def test_the_bound_is_of_these_very_arrivals(autojump_clock):
    """What a clairvoyant could have done with the bare loop's durations, whatever was done."""
    each = samples().each_once()  # three models at one instant, 10 ms each, one after the other
    client = SlowClient(takes_s=0.001)
    sent = await run_open_loop(client, each, slo_ns=25 * MS, keep_results=True)

    found = judge(sent, samples(), seconds=1, durations=DURATIONS)
    assert found["bound"] == {"25": 2.5, "50": 3.0, "100": 3.0}


def test_the_same_seed_asks_the_same():
    """All servers get the very same requests at the very same instants."""
    first, second = (samples().plan(rate_rps=100, seconds=2, seed=3) for _ in range(2))

    assert [(p.at_ns, p.model, p.tag) for p in first] == [(p.at_ns, p.model, p.tag) for p in second]
