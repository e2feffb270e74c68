"""Pages: never sold twice, never lost, and freed least popular first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.pages import EvictionOrder, PageBooks, PagePool, Popularity
from cw.messages import ModelId
from cw.units import SECOND

MODELS = [ModelId(number) for number in range(1, 6)]


@given(st.lists(st.tuples(st.sampled_from(MODELS), st.integers(1, 4)), max_size=60))
def test_pool_keeps_every_page_in_one_place(steps):
    """Two models in one page would answer with each other's weights."""
    pool = PagePool(8)
    for model_id, count in steps:
        if pool.held(model_id):
            pages = pool.held(model_id)
            assert pool.release(model_id) == pages
        elif pool.can_fit(count):
            assert len(pool.claim(model_id, count)) == count
        pool.validate()
        assert pool.free == 8 - sum(len(pool.held(each)) for each in MODELS)


def test_releasing_nothing_gives_nothing():
    """UNLOAD of a model that a failed LOAD never brought is harmless."""
    assert PagePool(2).release(ModelId(1)) == ()
    assert PageBooks(2).release(ModelId(1)) == 0


def test_books_refuse_to_oversell():
    """The controller's books are the only guard before the executor's own."""
    books = PageBooks(4)
    books.claim(ModelId(1), 3)
    with pytest.raises(AssertionError, match="2 pages wanted, 1 free"):
        books.claim(ModelId(2), 2)
    with pytest.raises(AssertionError, match="holds pages already"):
        books.claim(ModelId(1), 1)


def test_recent_use_outweighs_old_use_only_after_a_while():
    """LRFU keeps what is used often over what was used last: the LRU order thrashes on a scan."""
    often, once = Popularity(), Popularity()
    for second in range(10):
        often.use(now_ns=second * SECOND)
    once.use(now_ns=10 * SECOND)
    assert often.key > once.key

    once.use(now_ns=120 * SECOND)
    assert once.key > often.key


def test_popularity_stays_finite_over_a_long_life():
    """A server runs for months: the key must grow like time, not like its exponential."""
    popularity = Popularity()
    for day in range(100):
        popularity.use(now_ns=day * 86_400 * SECOND)

    assert 0 < popularity.key < 1e7


def chosen(order, pages, keys, held, *, keep=()):
    return order.choose(
        pages,
        key_of=lambda model_id: None if model_id in keep else keys[model_id],
        pages_of=lambda model_id: held[model_id],
    )


def test_eviction_takes_the_least_popular_that_suffice():
    """Every page freed too many is a reload later."""
    order = EvictionOrder()
    keys, held = {1: 3.0, 2: 1.0, 3: 2.0}, {1: 2, 2: 2, 3: 2}
    for model_id, key in keys.items():
        order.add(model_id, key)

    assert chosen(order, 2, keys, held) == [2]
    assert chosen(order, 3, keys, held) == [2, 3]


def test_eviction_sees_use_since_the_entry_was_made():
    """Requests never touch the heap, so its keys are old: a model used since must not go first."""
    order = EvictionOrder()
    for model_id in (1, 2):
        order.add(model_id, float(model_id))

    assert chosen(order, 1, {1: 5.0, 2: 2.0}, {1: 1, 2: 1}) == [2]


def test_eviction_never_takes_what_is_in_use():
    """Weights under promised work must stay, even if nothing else can go."""
    order = EvictionOrder()
    order.add(1, 1.0)
    order.add(2, 2.0)

    assert chosen(order, 1, {1: 1.0, 2: 2.0}, {1: 1, 2: 1}, keep={1}) == [2]
    assert chosen(order, 2, {1: 1.0, 2: 2.0}, {1: 1, 2: 1}, keep={1}) is None
    assert chosen(order, 2, {1: 1.0, 2: 2.0}, {1: 1, 2: 1}) == [1, 2]


@given(st.lists(st.tuples(st.sampled_from(MODELS), st.floats(0, 10)), max_size=40))
def test_eviction_order_is_by_current_keys(uses):
    """The lazy heap must give what sorting by the current keys gives."""
    order, keys = EvictionOrder(), {}
    for model_id, key in uses:
        order.add(model_id, keys.get(model_id, key))
        keys[model_id] = max(key, keys.get(model_id, 0.0))
    held = dict.fromkeys(keys, 1)
    for count in range(1, len(keys) + 1):
        victims = chosen(order, count, keys, held)
        assert sorted(keys[each] for each in victims) == sorted(keys.values())[:count]


def test_models_that_left_do_not_pile_up():
    """Under overload a hundred models a second come and go, for months."""
    order = EvictionOrder()
    for number in range(1, 1000):
        order.add(ModelId(number), float(number))
        order.discard(ModelId(number))
    order.add(ModelId(7), 7.0)
    order.add(ModelId(8), 8.0)

    assert len(order._heap) < 100
    assert chosen(order, 1, {7: 7.0, 8: 8.0}, {7: 1, 8: 1}) == [7]


def test_who_comes_back_is_judged_anew():
    """Its old entry must not let it go before those that are asked for less."""
    order = EvictionOrder()
    order.add(ModelId(1), 1.0)
    order.add(ModelId(2), 2.0)
    order.discard(ModelId(1))
    order.add(ModelId(1), 3.0)

    assert chosen(order, 1, {1: 3.0, 2: 2.0}, {1: 1, 2: 1}) == [2]
    order.discard(ModelId(2))
    assert chosen(order, 2, {1: 3.0, 2: 2.0}, {1: 1, 2: 1}) is None
