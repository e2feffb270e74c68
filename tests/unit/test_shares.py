"""Shares: what counts is a setting, and nobody's flood is another's drought.

One executor; a request alone takes 4 ms, so 250 of them in a second are all that it has.
"""

import math

import pytest

from cw.config import SchedulerSettings
from cw.core.shares import ASKED_DECAY_NS, SWEEP_NS, USED_DECAY_NS, Shares, parse_weights
from cw.errors import ConfigError
from cw.units import MS, SECOND
from tests.unit.policy_bench import Bench

LONE_MS = {1: 4}
QUIET, LOUD = 1, 2


def shares_of(bench, **settings):
    bench.books.settings = SchedulerSettings(**settings)
    return Shares(bench.books)


def ask(bench, shares, rates, *, index=0, from_ns=0, seconds=4.0):
    """Let tenants ask evenly, each so many times a second."""
    arrivals = sorted(
        (from_ns + int(number * SECOND / rate), tenant)
        for tenant, rate in rates.items()
        for number in range(int(rate * seconds))
    )
    for now_ns, tenant in arrivals:
        request = bench.request(0, index=index, tenant=tenant)
        request.arrival_ns, request.deadline_ns = now_ns, now_ns + 10 * MS
        shares.arrived(request, now_ns)
    return from_ns + int(seconds * SECOND)


def one(bench, tenant, index=0):
    return bench.request(1000, index=index, tenant=tenant)


def use(bench, shares, tenant, ms, now_ns, *, index=0):
    """Let one batch run, all of it a tenant's."""
    shares.used(bench.place(index), [one(bench, tenant, index)] * 2, int(ms * MS), now_ns)


# --- settings -------------------------------------------------------------------------------------


def test_weights_are_read():
    """Names may hold what they like; the last sign of equality counts."""
    assert parse_weights("") == {}
    assert parse_weights("a=2, tenant:3=0.5,") == {"a": 2.0, "tenant:3": 0.5}
    assert parse_weights("a=b=3") == {"a=b": 3.0}


@pytest.mark.parametrize("text", ["a", "=2", "a=", "a=x", "a=0", "a=-1", "a=inf", "a=nan", "b=1,a"])
def test_weights_that_make_no_sense_are_told(text):
    """A typo must not silently weigh 1."""
    with pytest.raises(ConfigError, match="expected weights such as"):
        parse_weights(text)


def test_an_unknown_objective_is_told():
    """The message names those there are."""
    with pytest.raises(ConfigError, match=r"'goodput': choose 'requests' or 'gpu_time'"):
        shares_of(Bench(), objective="goodput")


# --- what a request is worth ----------------------------------------------------------------------


def test_each_request_counts_as_one():
    """Whatever it costs: that is what goodput counts."""
    bench = Bench({1: 4}, {1: 40})
    shares = shares_of(bench)

    assert [shares.value(bench.place(index), one(bench, 0)) for index in (0, 1)] == [1.0, 1.0]


def test_weights_of_model_and_tenant_multiply():
    """Both were said, and whoever is not named counts as one."""
    bench = Bench(LONE_MS, LONE_MS)
    shares = shares_of(bench, weights="model-0=3,tenant:2=0.5")

    assert shares.value(bench.place(0), one(bench, LOUD)) == 1.5
    assert shares.value(bench.place(0), one(bench, QUIET)) == 3.0
    assert shares.value(bench.place(1), one(bench, LOUD)) == 0.5


def test_by_device_time_a_costly_model_counts_as_more():
    """In their densest batches one takes 1.25 ms of the device, the other 40."""
    bench = Bench({1: 4, 8: 10}, {1: 40})
    shares = shares_of(bench, objective="gpu_time")

    assert shares.value(bench.place(0), one(bench, 0)) == 1.25 * MS
    assert shares.value(bench.place(1), one(bench, 0)) == 40 * MS


# --- between tenants ------------------------------------------------------------------------------


def test_a_lone_tenant_is_owed_whatever_it_asks():
    """There is nobody to protect from it, so nothing is held back."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench)
    now_ns = ask(bench, shares, {LOUD: 1000})
    use(bench, shares, LOUD, 400, now_ns)

    assert shares.is_owed(one(bench, LOUD), now_ns)
    assert shares.reserved == 0.0


def test_two_tenants_within_their_shares_are_both_owed():
    """0.4 of the device each: nobody asks for more than its half, and nothing is reserved."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench)
    now_ns = ask(bench, shares, {QUIET: 100, LOUD: 100})
    use(bench, shares, LOUD, 500, now_ns)

    assert shares.is_owed(one(bench, QUIET), now_ns)
    assert shares.is_owed(one(bench, LOUD), now_ns)
    assert shares.reserved == 0.0


def test_a_flood_is_owed_its_share_and_no_more():
    """It asks for 4 devices: it is owed half of one, by what it used lately."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench)
    now_ns = ask(bench, shares, {QUIET: 50, LOUD: 1000})
    assert shares.is_owed(one(bench, LOUD), now_ns)
    use(bench, shares, LOUD, 249, now_ns)  # of the last 500 ms less than half
    assert shares.is_owed(one(bench, LOUD), now_ns)
    use(bench, shares, LOUD, 2, now_ns)

    assert not shares.is_owed(one(bench, LOUD), now_ns)
    assert shares.is_owed(one(bench, QUIET), now_ns)
    assert shares.is_owed(one(bench, LOUD), now_ns + USED_DECAY_NS)


def test_what_the_quiet_ask_for_is_reserved():
    """50 requests of 4 ms in a second are a fifth of the device."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench)
    ask(bench, shares, {QUIET: 50, LOUD: 1000})

    assert shares.reserved == pytest.approx(0.2, rel=0.05)


def test_the_estimate_of_what_is_asked_has_some_play():
    """0.56 of the device is more than half, but an estimate may swing so far; 0.64 is a flood."""
    for rate, owed in ((140, True), (160, False)):
        bench = Bench(LONE_MS)
        shares = shares_of(bench)
        now_ns = ask(bench, shares, {QUIET: 50, LOUD: rate})
        use(bench, shares, LOUD, 400, now_ns)

        assert shares.is_owed(one(bench, LOUD), now_ns) is owed


def test_shares_are_by_weight():
    """Three quarters are the loud one's: 375 of the last 500 ms."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench, weights=f"tenant:{LOUD}=3")
    now_ns = ask(bench, shares, {QUIET: 50, LOUD: 1000})
    use(bench, shares, LOUD, 374, now_ns)
    assert shares.is_owed(one(bench, LOUD), now_ns)
    use(bench, shares, LOUD, 2, now_ns)

    assert not shares.is_owed(one(bench, LOUD), now_ns)


def test_shares_grow_with_the_cluster():
    """Half of two devices is one."""
    bench = Bench(LONE_MS, executors=2)
    shares = shares_of(bench)
    now_ns = ask(bench, shares, {QUIET: 50, LOUD: 1000})
    use(bench, shares, LOUD, 499, now_ns)
    assert shares.is_owed(one(bench, LOUD), now_ns)
    use(bench, shares, LOUD, 2, now_ns)

    assert not shares.is_owed(one(bench, LOUD), now_ns)


def test_who_asks_no_more_leaves_its_share_to_others():
    """Accounts close: a tenant that was here an hour ago owns nothing now."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench)
    now_ns = ask(bench, shares, {QUIET: 50, LOUD: 1000}, seconds=1)
    asked = 50 * ASKED_DECAY_NS / SECOND  # less than so many are remembered of the quiet one
    silence_ns = int(ASKED_DECAY_NS * math.log(asked / 0.01)) + SWEEP_NS
    use(bench, shares, LOUD, 400, now_ns)
    assert not shares.is_owed(one(bench, LOUD), now_ns)
    now_ns = ask(bench, shares, {LOUD: 1000}, from_ns=now_ns + silence_ns, seconds=0.5)
    use(bench, shares, LOUD, 400, now_ns)

    assert shares.is_owed(one(bench, LOUD), now_ns)
    assert shares.reserved == 0.0


def test_batches_count_with_what_they_cost_in_company():
    """1000 a second fill batches of 8 within 10 ms: they ask for half of the device, not for 4."""
    bench = Bench({1: 4, 8: 4})
    shares = shares_of(bench)
    ask(bench, shares, {QUIET: 1000, LOUD: 8000}, seconds=2)

    assert shares.reserved == pytest.approx(0.5, rel=0.05)


def test_work_of_who_has_no_account_is_nobodys():
    """A promise of an earlier reign was never asked for here."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench)
    use(bench, shares, QUIET, 100, 0)

    assert shares.is_owed(one(bench, QUIET), 0)
    assert not shares.is_starved(one(bench, QUIET), 0)


def test_a_model_that_nobody_serves_costs_nothing_yet():
    """Its first executor is to come: there is nothing to count by."""
    bench = Bench(LONE_MS)
    bench.models[0].serving.clear()
    bench.models[0].places.clear()
    shares = shares_of(bench)
    ask(bench, shares, {QUIET: 50, LOUD: 1000})

    assert shares.reserved == 0.0


# --- between the models of a tenant ---------------------------------------------------------------


def test_a_model_with_less_than_a_third_of_its_part_is_starved():
    """Two models own 250 of 500 ms each: 82.5 are a third, and the looks at it are 5 ms apart."""
    bench = Bench(LONE_MS, LONE_MS)
    shares = shares_of(bench, fair_share=0.33)
    for index in (0, 1):
        now_ns = ask(bench, shares, {QUIET: 100}, index=index, seconds=1)
    use(bench, shares, QUIET, 84, now_ns, index=0)
    use(bench, shares, QUIET, 81, now_ns, index=1)

    assert not shares.is_starved(one(bench, QUIET, 0), now_ns)
    assert shares.is_starved(one(bench, QUIET, 1), now_ns)
    use(bench, shares, QUIET, 10, now_ns, index=1)
    assert shares.is_starved(one(bench, QUIET, 1), now_ns + 5 * MS)
    assert not shares.is_starved(one(bench, QUIET, 1), now_ns + 5 * MS + 1)


def test_a_tenants_part_is_shared_out_first():
    """Ten models of one tenant and one of another: the one owns half of the device, not 1/11."""
    bench = Bench(*[LONE_MS] * 11)
    shares = shares_of(bench, fair_share=1.0)
    for index in range(11):
        tenant = QUIET if index == 10 else LOUD
        now_ns = ask(bench, shares, {tenant: 50}, index=index, seconds=0.2)
    use(bench, shares, QUIET, 249, now_ns, index=10)
    use(bench, shares, LOUD, 26, now_ns, index=0)
    use(bench, shares, LOUD, 24, now_ns, index=1)

    assert shares.is_starved(one(bench, QUIET, 10), now_ns)
    assert not shares.is_starved(one(bench, LOUD, 0), now_ns)
    assert shares.is_starved(one(bench, LOUD, 1), now_ns)


def test_a_models_weight_is_its_part():
    """Of 4 parts one owns 3."""
    bench = Bench(LONE_MS, LONE_MS)
    shares = shares_of(bench, fair_share=1.0, weights="model-0=3")
    for index in (0, 1):
        now_ns = ask(bench, shares, {QUIET: 50}, index=index, seconds=0.2)
    use(bench, shares, QUIET, 374, now_ns, index=0)
    use(bench, shares, QUIET, 126, now_ns, index=1)

    assert shares.is_starved(one(bench, QUIET, 0), now_ns)
    assert not shares.is_starved(one(bench, QUIET, 1), now_ns)


def test_without_a_fair_share_nobody_is_starved():
    """Then goodput is all that counts."""
    bench = Bench(LONE_MS)
    shares = shares_of(bench, fair_share=0.0)
    now_ns = ask(bench, shares, {QUIET: 50}, seconds=0.2)

    assert not shares.is_starved(one(bench, QUIET), now_ns)
