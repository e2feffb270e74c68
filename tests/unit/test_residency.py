"""A model's life: legal steps only, and its actions in the order sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.residency import TRANSITIONS, Residency, ResidencyTable, Step
from cw.errors import ProtocolViolation
from cw.messages import ModelId

MODEL = ModelId(7)
WHOLE_LIFE = (
    (Step.PREPARED, Residency.COLD),
    (Step.LOAD_BEGINS, Residency.LOADING),
    (Step.LOAD_FAILS, Residency.COLD),
    (Step.LOAD_BEGINS, Residency.LOADING),
    (Step.LOAD_ENDS, Residency.WARM),
    (Step.UNLOAD_BEGINS, Residency.UNLOADING),
    (Step.UNLOAD_ENDS, Residency.COLD),
    (Step.FORGOTTEN, Residency.UNKNOWN),
)


def test_a_whole_life_comes_back_to_where_it_began():
    """Every step that an executor takes with a model, once, in order."""
    table = ResidencyTable()
    assert table.state(MODEL) is Residency.UNKNOWN
    for step, expected in WHOLE_LIFE:
        assert table.step(MODEL, step) is expected
        assert table.state(MODEL) is expected

    assert table.known(*Residency) == ()


def test_the_life_above_uses_every_transition_of_the_table():
    """A transition that nothing takes would be dead, and its drawing a lie."""
    state, used = Residency.UNKNOWN, set()
    for step, following in WHOLE_LIFE:
        used.add((state, step))
        state = following

    assert used == {(state, step) for state, steps in TRANSITIONS.items() for step in steps}


@given(st.lists(st.sampled_from(Step), max_size=30))
def test_what_the_table_does_not_list_is_refused_and_changes_nothing(steps):
    """A LOAD into a model that runs would overwrite weights in use."""
    table, state = ResidencyTable(), Residency.UNKNOWN
    for step in steps:
        following = TRANSITIONS[state].get(step)
        if following is None:
            with pytest.raises(ProtocolViolation, match=f"is {state.value}, .* got {step.value}"):
                table.step(MODEL, step)
        else:
            table.step(MODEL, step)
            state = following
        assert table.state(MODEL) is state


def test_known_tells_prepared_from_resident():
    """A new controller learns both from the executor's hello, and plans by them."""
    table = ResidencyTable()
    for model in (1, 2, 3):
        table.step(ModelId(model), Step.PREPARED)
    for step in (Step.LOAD_BEGINS, Step.LOAD_ENDS):
        table.step(ModelId(2), step)

    assert table.known(Residency.WARM) == (2,)
    assert table.known(Residency.COLD, Residency.WARM) == (1, 2, 3)


def test_an_action_waits_for_all_sent_before_it_to_the_same_model():
    """UNLOAD behind INFER and INFER behind LOAD, across lanes: pages are never taken in use."""
    table = ResidencyTable()
    for turn in (1, 2, 3):
        table.announce(MODEL, turn)
    table.announce(ModelId(8), 4)

    assert [table.is_turn(MODEL, turn) for turn in (1, 2, 3)] == [True, False, False]
    assert table.is_turn(ModelId(8), 4)
    table.finish(MODEL, 2)
    assert not table.is_turn(MODEL, 3)
    table.finish(MODEL, 1)
    assert table.is_turn(MODEL, 3)


@given(st.permutations(range(6)))
def test_whatever_ends_first_somebody_is_always_next(order):
    """Actions are also dropped from the middle (a new epoch): the line must never stall."""
    table = ResidencyTable()
    for turn in range(6):
        table.announce(MODEL, turn)
    left = set(range(6))
    for turn in order:
        assert table.is_turn(MODEL, min(left))
        table.finish(MODEL, turn)
        left.discard(turn)


def test_a_turn_is_announced_once():
    """Two actions under one name would free each other's fence."""
    table = ResidencyTable()
    table.announce(MODEL, 1)

    with pytest.raises(AssertionError, match="announced twice"):
        table.announce(MODEL, 1)
