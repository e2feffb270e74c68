"""A model's life at an executor, and the order of what is done with it.

Rules
-----
1. A model is UNKNOWN until PREPARE has loaded its program and reserved its addresses; then it is
   COLD. LOAD takes it through LOADING to WARM, UNLOAD through UNLOADING back to COLD. A removed
   model is forgotten while COLD and is UNKNOWN again.
2. Only WARM models run. Pages belong to a model from LOADING until UNLOADING has ended.
3. What the table does not list is illegal: `ProtocolViolation`, which names the state and the step.
   The lanes never ask for it, since they answer an action that does not fit with an outcome; it
   is the last line of defence between a mistaken plan and another model's weights.
4. A model's actions take effect in the order in which they were sent, whichever lane carries them.
   So an UNLOAD is fenced behind the last INFER sent before it, and an INFER waits for the LOAD sent
   before it. Lanes are in order too, hence each action waits for earlier ones only, and no two
   can wait for each other.
"""

import enum
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from cw.errors import ProtocolViolation
from cw.messages import ModelId


class Residency(enum.Enum):
    """Where a model is in its life."""

    UNKNOWN = "unknown"
    COLD = "cold"
    """Prepared: it can be loaded."""
    LOADING = "loading"
    WARM = "warm"
    UNLOADING = "unloading"


class Step(enum.Enum):
    """What moves it on."""

    PREPARED = "prepared"
    LOAD_BEGINS = "loadBegins"
    LOAD_ENDS = "loadEnds"
    LOAD_FAILS = "loadFails"
    UNLOAD_BEGINS = "unloadBegins"
    UNLOAD_ENDS = "unloadEnds"
    FORGOTTEN = "forgotten"


TRANSITIONS: Final[Mapping[Residency, Mapping[Step, Residency]]] = MappingProxyType(
    {
        Residency.UNKNOWN: {Step.PREPARED: Residency.COLD},
        Residency.COLD: {
            Step.LOAD_BEGINS: Residency.LOADING,
            Step.FORGOTTEN: Residency.UNKNOWN,
        },
        Residency.LOADING: {Step.LOAD_ENDS: Residency.WARM, Step.LOAD_FAILS: Residency.COLD},
        Residency.WARM: {Step.UNLOAD_BEGINS: Residency.UNLOADING},
        Residency.UNLOADING: {Step.UNLOAD_ENDS: Residency.COLD},
    }
)
"""A missing key is a protocol violation."""


class ResidencyTable:
    """The state of every model of one executor, and the order of its unfinished actions."""

    def __init__(self) -> None:
        self._states: dict[ModelId, Residency] = {}
        # Per model the unfinished actions in the order sent; a dict for its order.
        self._lines: dict[ModelId, dict[int, None]] = {}

    def state(self, model_id: ModelId) -> Residency:
        """Say where a model is in its life."""
        return self._states.get(model_id, Residency.UNKNOWN)

    def step(self, model_id: ModelId, step: Step) -> Residency:
        """Move a model on.

        Returns:
            Its new state.

        Raises:
            ProtocolViolation: The step is not possible from where the model is.
        """
        state = self.state(model_id)
        following = TRANSITIONS[state].get(step)
        if following is None:
            allowed = ", ".join(step.value for step in TRANSITIONS[state])
            raise ProtocolViolation(
                f"model {model_id} is {state.value}, from where it can only go on by {allowed}; "
                f"got {step.value}: the plan does not know this executor any more, join anew"
            )
        if following is Residency.UNKNOWN:
            del self._states[model_id]
        else:
            self._states[model_id] = following
        return following

    def known(self, *states: Residency) -> tuple[ModelId, ...]:
        """List the models in any of these states."""
        return tuple(model for model, state in self._states.items() if state in states)

    def announce(self, model_id: ModelId, turn: int) -> None:
        """Put an action behind all that were announced for the model before.

        Args:
            model_id: Which model it is for.
            turn: Names the action; unique among the unfinished ones.
        """
        line = self._lines.setdefault(model_id, {})
        assert turn not in line, f"turn {turn} of model {model_id} was announced twice"
        line[turn] = None

    def is_turn(
        self, model_id: ModelId, turn: int, *, ahead: Collection[int] = frozenset()
    ) -> bool:
        """Say whether all actions announced before this one are finished.

        Args:
            model_id: Which model it is for.
            turn: Which action.
            ahead: Actions that surely end before this one could begin: they don't count.
        """
        return next(other for other in self._lines[model_id] if other not in ahead) == turn

    def finish(self, model_id: ModelId, turn: int) -> None:
        """Take an action out, wherever in the line: it ended, or will never be started."""
        line = self._lines[model_id]
        del line[turn]
        if not line:
            del self._lines[model_id]
