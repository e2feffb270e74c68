"""Meters: who pays for what, to the nanosecond, and what a kill leaves unknown."""

import time

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cw import messages as m
from cw.actors.meters import ExecutorMeter, GatewayMeter, UsageSender, ended_as, split_ns
from cw.actors.queued import Ended, Queued
from cw.errors import CatalogFailed
from cw.metering.journal import Journal, read_records
from cw.units import SECOND
from tests.unit.scheduler_world import spec

SPEC = spec(0)
WINDOW = m.Window(earliest_ns=0, latest_ns=1)


@pytest.fixture
def journal(tmp_path):
    """Open the journal of life 7."""
    journal = Journal(tmp_path, source="executor:e", incarnation=m.Incarnation(7))
    yield journal
    journal.close()


@pytest.fixture
def meter(journal):
    """Meter one executor; it is always hour 1."""
    return ExecutorMeter(journal, hour=lambda: 1)


def infer(turn, *tenants):
    slots = tuple(
        m.Slot(
            request_id=m.RequestId(n), attempt=m.Attempt(1), deadline_ns=1, tenant_id=m.TenantId(of)
        )
        for n, of in enumerate(tenants)
    )
    return queued(
        turn,
        m.Infer(
            action_id=m.ActionId(turn),
            model_id=SPEC.model_id,
            batch_size=8,
            slots=slots,
            ticket=m.Ticket(1),
            planned_start_ns=0,
            expected_ns=0,
            window=WINDOW,
        ),
    )


def load(turn):
    return queued(
        turn,
        m.Load(
            action_id=m.ActionId(turn),
            model_id=SPEC.model_id,
            planned_start_ns=0,
            expected_ns=0,
            window=WINDOW,
        ),
    )


def queued(turn, action):
    return Queued(action=action, link=None, turn=turn, received_ns=0, window=None, key=None)


def ended(end_ns=SECOND, outcome=m.Outcome.OK, **changed):
    return Ended(outcome=outcome, start_ns=0, end_ns=end_ns, ready_ns=0, **changed)


def sums(journal):
    """Sum what is written, by tenant and measure."""
    total = {}
    for record in read_records(journal.path):
        for entry in record.entries:
            for name, value in attrs.asdict(entry).items():
                if isinstance(value, int) and value and name not in ("hour", "tenant_id"):
                    key = entry.tenant_id, name
                    total[key] = total.get(key, 0) + value
    return total


@given(st.integers(0, 10**12), st.lists(st.integers(0, 5), min_size=1, max_size=32))
def test_the_parts_of_a_batch_sum_up_to_the_whole(gpu_ns, tenants):
    """No nanosecond is lost or paid twice, and nobody pays for more than a ns of another's slot."""
    parts = split_ns(gpu_ns, tenants)

    assert sum(parts.values()) == gpu_ns
    for tenant, part in parts.items():
        assert abs(part - gpu_ns * tenants.count(tenant) / len(tenants)) <= 1


def test_who_rode_pays_for_the_whole_batch(meter, journal):
    """Whoever's inputs were late does not, nor does anybody for the padding."""
    meter.began(batch := infer(1, 1, 1, 2, 3), SPEC)
    meter.ended(batch, ended(device_ns=900, ran=(True, True, True, False)), SPEC)

    assert sums(journal) == {(1, "gpu_ns"): 600, (2, "gpu_ns"): 300}


def test_weights_are_their_owners(meter, journal):
    """LOADed bytes, and the time that they lie in pages, as it goes by."""
    meter.began(load(1), SPEC)
    meter.ended(load(1), ended(end_ns=SECOND), SPEC)
    meter.tick(3 * SECOND)
    meter.tick(3 * SECOND)
    unload = queued(2, m.Unload(action_id=m.ActionId(2), model_id=SPEC.model_id, forget=True))
    meter.began(unload, None)
    meter.ended(unload, ended(end_ns=4 * SECOND), None)  # forgotten, so that it has no spec
    meter.tick(9 * SECOND)

    assert sums(journal) == {
        (m.MODEL_OWNER, "load_bytes"): SPEC.image_bytes,
        (m.MODEL_OWNER, "resident_byte_ms"): 3000 * SPEC.image_bytes,
    }


def test_what_a_kill_interrupts_is_unknown(meter, journal):
    """To those who rode, once each; what was rejected used nothing."""
    meter.began(infer(1, 1, 1, 2), SPEC)
    meter.began(rejected := infer(2, 1), SPEC)
    meter.ended(rejected, ended(outcome=m.Outcome.TOO_LATE, ran=(False,)), SPEC)
    meter.began(load(3), SPEC)

    assert sums(journal) == {
        (1, "unknown"): 1,
        (2, "unknown"): 1,
        (m.MODEL_OWNER, "unknown"): 1,
    }


def test_probes_are_free(meter, journal):
    """The cluster measures for its own sake."""
    meter.began(infer(1), SPEC)
    meter.ended(infer(1), ended(device_ns=5), SPEC)

    assert read_records(journal.path) == []


REFUSAL = m.Refusal(reason=m.RefusalReason.OVERLOAD)
LATE = m.Failure(kind=m.FailureKind.LATE)
BAD = m.Failure(kind=m.FailureKind.INVALID_INPUT)


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ({"outputs": ()}, "kept"),
        ({"refusal": REFUSAL}, "refused"),
        ({"failure": LATE, "promised": True}, "broken"),
        ({"failure": BAD}, "failed"),
        (None, "failed"),
    ],
)
def test_each_end_has_its_count(answer, count, journal):
    """And it is in the file before the answer leaves."""
    if answer is not None:
        answer = m.Answer(**{"timing": m.Timing(total_ns=1), "promised": False, **answer})
    GatewayMeter(journal, hour=lambda: 1).answered(m.TenantId(4), "a", answer)

    assert ended_as(answer) == count
    assert sums(journal) == {(4, count): 1}


class Catalog:
    """Takes usage, when it is up."""

    def __init__(self):
        self.is_up = True
        self.through = {}
        self.added = []

    async def meter(self, batch):
        if not self.is_up:
            raise CatalogFailed("the disk is full")
        through = self.through.get(batch.incarnation, 0)
        for record in batch.records:
            if record.number == through + 1:
                through += 1
                self.added.append((batch.incarnation, record.number))
        self.through[batch.incarnation] = through
        return through


async def test_everything_is_sent_once_the_catalog_is_up(
    journal, tmp_path, autojump_clock, nursery
):
    """What earlier lives left behind, too, whose files are deleted then and not before."""
    earlier = Journal(tmp_path, source="executor:e", incarnation=m.Incarnation(3))
    entry = m.UsageEntry(hour=1, tenant_id=m.TenantId(1), model="a", gpu_ns=1)
    for each in (earlier, earlier, journal):
        each.add((entry,))
    catalog = Catalog()
    catalog.is_up = False
    session = None
    nursery.start_soon(UsageSender(tmp_path, journal, lambda: session).run)
    await trio.sleep(2.5)
    session = catalog
    await trio.sleep(2.5)
    assert earlier.path.exists()
    catalog.is_up = True
    await trio.sleep(1)
    # The sender reads files in threads, whose time the virtual clock knows nothing of.
    ends_s = time.monotonic() + 20
    while journal.unsent(1) is not None or earlier.path.exists():
        assert time.monotonic() < ends_s, "not everything was sent"
        await trio.sleep(0.1)

    assert catalog.added == [(3, 1), (3, 2), (7, 1)]
    earlier.close()
