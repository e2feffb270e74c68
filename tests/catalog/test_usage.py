"""Usage in the catalog: each record counts once, however often and in whatever order it comes."""

from collections import Counter

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from cw.catalog.catalog import Catalog
from cw.catalog.database import default_url
from cw.catalog.tables import METADATA
from cw.catalog.usage import MEASURES, add_usage, read_usage
from cw.messages import Incarnation, TenantId, UsageBatch, UsageEntry, UsageRecord

entries = st.builds(
    UsageEntry,
    hour=st.integers(0, 2),
    tenant_id=st.integers(0, 2),
    model=st.sampled_from(["a", "b"]),
    gpu_ns=st.integers(0, 10**12),
    load_bytes=st.integers(0, 10**12),
    kept=st.integers(0, 3),
)


def records(count, make):
    return tuple(UsageRecord(number=n, entries=make(n)) for n in range(1, count + 1))


def batch(these, *, incarnation=1, source="executor:e"):
    return UsageBatch(source=source, incarnation=Incarnation(incarnation), records=tuple(these))


def truth(lives):
    """Sum every record once."""
    sums = Counter()
    for life in lives:
        for record in life:
            for entry in record.entries:
                for name in MEASURES:
                    sums[entry.tenant_id, entry.hour, entry.model, name] += getattr(entry, name)
    return +sums


def in_catalog(connection):
    return +Counter(
        {
            (entry.tenant_id, entry.hour, entry.model, name): getattr(entry, name)
            for entry in read_usage(connection, by="both")
            for name in MEASURES
        }
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sums_are_exact_whatever_comes_twice_or_out_of_order(data):
    """A sender resends what was not acknowledged; two connections may change places."""
    lives = [
        records(count, lambda _: tuple(data.draw(st.lists(entries, max_size=3))))
        for count in data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    ]
    engine = create_engine("sqlite://")
    METADATA.create_all(engine)
    with engine.begin() as connection:
        for _ in range(data.draw(st.integers(0, 12))):
            life = data.draw(st.integers(0, len(lives) - 1))
            some = data.draw(st.lists(st.sampled_from(lives[life]), max_size=8))
            add_usage(connection, batch(some, incarnation=life))
        for life, whole in enumerate(lives):  # in the end all of them come
            assert add_usage(connection, batch(whole, incarnation=life)) == len(whole)

        assert in_catalog(connection) == truth(lives)
    engine.dispose()


def test_a_gap_is_not_stepped_over(connection):
    """What is missing is still on its way, and would never be added once it was passed."""
    three = records(3, lambda n: (UsageEntry(hour=n, tenant_id=TenantId(1), model="a", kept=1),))

    assert add_usage(connection, batch(three[1:])) == 0
    assert read_usage(connection) == ()
    assert add_usage(connection, batch(three)) == 3


def test_lives_and_writers_count_apart(connection):
    """Each begins with 1."""
    one = records(1, lambda _: (UsageEntry(hour=1, tenant_id=TenantId(1), model="a", gpu_ns=5),))
    for source, life in (("executor:e", 1), ("executor:e", 2), ("gateway:g", 1)):
        add_usage(connection, batch(one, incarnation=life, source=source))
    (total,) = read_usage(connection, by="hour")

    assert total == attrs.evolve(one[0].entries[0], model="", gpu_ns=15)


def test_it_is_on_disk_when_it_is_acknowledged(tmp_path):
    """The writer cuts its journal then."""
    url = default_url(tmp_path)
    one = records(1, lambda _: (UsageEntry(hour=1, tenant_id=TenantId(1), model="a", kept=7),))
    first = Catalog.open(url, ())
    assert first.add_usage(batch(one)) == 1
    # Not closed: as if it had been killed.
    second = Catalog.open(url, ())

    assert second.add_usage(batch(one)) == 1
    assert [entry.kept for entry in second.usage(by="model")] == [7]
    assert second.usage(by="model", tenant_id=TenantId(2)) == ()
    first.close()
    second.close()
