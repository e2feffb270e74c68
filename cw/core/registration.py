"""Registration: bringing a model up on an executor, until its durations are known.

The concept: nothing is promised of what was not measured. A place (one model on one executor)
climbs the stages of this table, one action at a time; an executor brings up its places in order.
Which executors know a model is for `spread.py` to say.

=========  ==========================================  =========================================
stage      what is done                                what comes next
=========  ==========================================  =========================================
NEW        a PREPARE is sent                           PREPARING
PREPARING  its result is awaited                       PREPARED; FAILED if it can't be prepared
PREPARED   READY at once if the program is warm here   READY or PROBING
           and its durations are known; else a LOAD
PROBING    probes of each batch size, smallest first   READY after the last
READY      requests are planned
FAILED     nothing: the model can't run here
=========  ==========================================  =========================================

Warm-up probes are thrown away. A (program, kind of device) that was measured on one executor is
only warmed up on the next; new weights of a program that is warm on an executor need only the
PREPARE.

These actions go into gaps: sent only when every promise can spare their duration. When no gap comes
for a while, the executor takes nothing new until its plan is empty (`quiescing`), so that a steady
load can't keep a model out for ever.

Neighbours: `scheduler.py` advances it and hands it results; `dispatch.py` sends.
"""

from typing import Final

import attrs

from cw.core import standing
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, Stage
from cw.core.commands import AnnounceModel
from cw.core.dispatch import Dispatcher
from cw.core.durations import DurationWindow
from cw.core.profile import own_ns
from cw.core.residency import Residency
from cw.core.spread import Spread
from cw.messages import ActionResult, Infer, ModelState, Outcome, Prepare
from cw.units import MS, SECOND

PREPARE_NS: Final = 1 * SECOND
"""First guess of a PREPARE: loading a program took 0.3-2 s when measured."""
GAP_PATIENCE_NS: Final = 250 * MS
"""How long to wait for a gap before making one."""
GAP_POLL_NS: Final = 5 * MS
RETRIES: Final = 3
"""A PREPARE or probe that was not carried out is sent again so often, then the place has FAILED."""

DOUBT_EVERY_NS: Final = 1 * SECOND
DOUBT_RUNS: Final = 6
"""Runs of each batch size when its estimate is in doubt: enough that chance does not give six quick
ones to a model that is slow, few enough to be done in the gaps of a refused load."""

STAGES: Final[dict[Stage, frozenset[Stage]]] = {
    # READY: the executor said that it has the model prepared, and its durations are known.
    Stage.NEW: frozenset({Stage.PREPARING, Stage.PREPARED, Stage.READY}),
    Stage.PREPARING: frozenset({Stage.PREPARED, Stage.NEW, Stage.FAILED}),
    Stage.PREPARED: frozenset({Stage.PROBING, Stage.READY, Stage.FAILED}),
    Stage.PROBING: frozenset({Stage.READY, Stage.PREPARED, Stage.NEW, Stage.FAILED}),
    # NEW: the executor says that it does not know the model.
    Stage.READY: frozenset({Stage.NEW}),
    Stage.FAILED: frozenset(),
}


@attrs.define(eq=False)
class Registrar:
    """Brings places up. Instants are cluster time, ns."""

    books: Books
    dispatcher: Dispatcher
    spread: Spread = attrs.field(init=False)
    _prepare_ns: DurationWindow = attrs.field(factory=lambda: DurationWindow(32, 0.99))

    def __attrs_post_init__(self) -> None:
        self.spread = Spread(self.books, self.dispatcher)

    def place_model(
        self, model: ModelBooks, executor: ExecutorBooks, *, urgent: bool = False
    ) -> Place:
        """Begin to bring a model up on an executor.

        Args:
            model: Which.
            executor: Where it is not known yet.
            urgent: Before all that wait to be brought up there, since it is asked for.
        """
        spec = model.spec
        costs = self.books.profiles.costs(spec.program_sha256, spec.batch_sizes, executor.key)
        place = Place(model, executor, costs)
        model.places[executor.executor_id] = place
        executor.places[model.model_id] = place
        self.spread.count(place)
        if spec.model_id in executor.resident and spec.pages <= executor.pages.free:
            executor.pages.claim(spec.model_id, spec.pages)
            executor.eviction.add(spec.model_id, model.popularity.key)
            place.residency = Residency.WARM
        if spec.model_id in executor.prepared:
            self._prepared(place)
        if place.stage is not Stage.READY:
            # Not before what has begun: an executor brings up one place at a time.
            begun = bool(executor.bring_up) and executor.bring_up[0].stage is not Stage.NEW
            executor.bring_up.insert(int(begun) if urgent else len(executor.bring_up), place)
        self.books.dirty[executor.executor_id] = executor
        return place

    def refill(self, model: ModelBooks) -> None:
        """Make a model known where it should be and is not."""
        for executor in self.spread.choose(model):
            self.place_model(model, executor)

    def extend(self, model: ModelBooks, *, now_ns: int) -> None:
        """Make a model known on one more executor, if one has room."""
        if model.removed:
            return
        executor = self.spread.choose_roomy(model, now_ns)
        if executor is not None:
            self.spread.trim_some()
            self.place_model(model, executor, urgent=True)

    def again(self, place: Place) -> None:
        """Begin anew with a place whose executor does not know the model."""
        _move(place, Stage.NEW)
        place.stop_serving()
        self.spread.not_prepared(place.executor, place.model.model_id)
        if place not in place.executor.bring_up:
            place.executor.bring_up.append(place)

    def advance(self, executor: ExecutorBooks, *, now_ns: int) -> int | None:
        """Take the next step on an executor if it can be taken now.

        Returns:
            When to look again; None when a result or nothing is awaited.
        """
        while executor.bring_up:
            place = executor.bring_up[0]
            if self._is_up(place):
                executor.bring_up.popleft()
                executor.waiting_since_ns = None
                executor.quiescing = False
                continue
            if place.in_flight:
                return None
            if not self._is_gap(executor, self._step_ns(place), now_ns):
                return now_ns + GAP_POLL_NS
            if not self._step(place, now_ns):
                # No pages can be freed at present: promised work holds them all.
                return now_ns + GAP_POLL_NS
        return None

    def _is_up(self, place: Place) -> bool:
        """Say whether nothing is left to be done to bring a place up."""
        if place.model.removed or place.stage in (Stage.READY, Stage.FAILED):
            return True
        return place.executor.places.get(place.model.model_id) is not place  # dropped

    def on_result(self, place: Place, action: object, result: ActionResult, *, now_ns: int) -> None:
        """Take in the result of a PREPARE or a probe."""
        if place.stage is Stage.FAILED or place.model.removed:
            return
        if isinstance(action, Prepare):
            self._on_prepare(place, result)
        elif isinstance(action, Infer) and place.stage is Stage.PROBING:
            self._on_probe(place, action, result)
        elif isinstance(action, Infer) and place.stage is Stage.READY:
            self._on_recheck(place, action, result, now_ns)

    def doubt(self, model: ModelBooks, *, now_ns: int) -> None:
        """Measure a model again whose estimates refuse what an idle device might well do in time.

        Refused requests teach nothing, so an estimate made high by a stall that is over would stay
        high for ever. Only an idle lane is used, and at most once in `DOUBT_EVERY_NS`.
        """
        for place in model.serving:
            if (
                now_ns - place.doubted_ns > DOUBT_EVERY_NS
                and place.residency is Residency.WARM
                and self._is_idle(place.executor)
            ):
                place.doubted_ns = now_ns
                sizes = place.model.spec.batch_sizes
                place.probes = [size for size in sizes for _ in range(DOUBT_RUNS)]
                place.rechecked_ns.clear()
                self.dispatcher.probe(place, place.probes[0], now_ns)

    def _is_idle(self, executor: ExecutorBooks) -> bool:
        return not (executor.infer.outstanding or executor.plan.batches or executor.bring_up)

    def _on_recheck(self, place: Place, action: Infer, result: ActionResult, now_ns: int) -> None:
        if result.outcome is not Outcome.OK or not place.probes:
            place.probes.clear()
            return
        del place.probes[0]
        place.rechecked_ns.append(own_ns(result))
        if len(place.rechecked_ns) == DOUBT_RUNS:
            self.books.profiles.correct_infer(
                place.model.spec.program_sha256,
                action.batch_size,
                place.executor.key,
                list(place.rechecked_ns),
            )
            place.rechecked_ns.clear()
        if place.probes and self._is_idle(place.executor):
            self.dispatcher.probe(place, place.probes[0], now_ns)
        else:
            place.probes.clear()  # done, or real work has come, which teaches as well

    def fail(self, place: Place, detail: str) -> None:
        """Give a place up."""
        if place.stage is not Stage.FAILED:
            place.stage = Stage.FAILED
        place.stop_serving()
        model = place.model
        model.detail = detail
        self.judge(model)
        self.refill(model)

    def judge(self, model: ModelBooks) -> None:
        """Bring a model's state in step with its places, and announce what changed."""
        if model.removed:
            return
        stages = {place.stage for place in model.places.values()}
        if Stage.READY in stages:
            if model.state is not ModelState.READY:
                model.state = ModelState.READY
                self._announce(model, ready=True)
        elif stages == {Stage.FAILED}:
            was_failed = model.state is ModelState.FAILED
            model.state = ModelState.FAILED
            if not was_failed:
                self._announce(model, ready=False)

    def _announce(self, model: ModelBooks, *, ready: bool) -> None:
        command = AnnounceModel(model_id=model.model_id, ready=ready)
        self.dispatcher.commands.append(command)

    # --- steps ------------------------------------------------------------------------------------

    def _step_ns(self, place: Place) -> int:
        match place.stage:
            case Stage.NEW:
                return self._prepare_ns.estimate_ns or PREPARE_NS
            case Stage.PROBING if place.probes:
                return place.costs.by_count[place.probes[0]]
            case _ if place.executor.device.shared_lanes:
                spec = place.model.spec
                return self.books.profiles.load_ns(place.executor.device, spec.image_bytes)
            case _:
                return 0

    def _is_gap(self, executor: ExecutorBooks, step_ns: int, now_ns: int) -> bool:
        """Say whether a step fits now; after a while of waiting, make room for it."""
        start_ns = executor.start_ns(now_ns)
        overhead_ns = executor.pipe.overhead_ns
        if executor.infer.free_ns(now_ns=now_ns) <= now_ns + executor.pipe.lead_ns and (
            executor.plan.least_spare_ns(start_ns, overhead_ns, now_ns) >= step_ns
        ):
            executor.waiting_since_ns = None
            executor.quiescing = False
            return True
        if executor.waiting_since_ns is None:
            executor.waiting_since_ns = now_ns
        elif now_ns - executor.waiting_since_ns > GAP_PATIENCE_NS:
            executor.quiescing = True
        return False

    def _step(self, place: Place, now_ns: int) -> bool:
        """Send a place's next action; False if it can't be sent now."""
        match place.stage:
            case Stage.NEW:
                _move(place, Stage.PREPARING)
                self.dispatcher.prepare(place, self._step_ns(place), now_ns)
                return True
            case Stage.PREPARED if place.residency is Residency.COLD:
                if place.model.spec.pages > place.executor.pages.total:
                    self.fail(
                        place,
                        f"needs {place.model.spec.pages} pages, the device "
                        f"{place.executor.name} has {place.executor.pages.total}: take a smaller "
                        "model or more device memory",
                    )
                    return True
                return self.dispatcher.load(place, now_ns)
            case Stage.PREPARED:
                self._begin_probes(place)
                return True
            case _:
                if place.residency is Residency.COLD:
                    return self.dispatcher.load(place, now_ns)
                self.dispatcher.probe(place, place.probes[0], now_ns)
                return True

    def _on_prepare(self, place: Place, result: ActionResult) -> None:
        match result.outcome:
            case Outcome.OK:
                self._prepare_ns.add(result.end_ns - result.start_ns)
                place.retries = 0
                self._prepared(place)
            case Outcome.TOO_LATE if place.retries < RETRIES:
                place.retries += 1
                _move(place, Stage.NEW)
            case _:
                place.lacked_room = result.outcome is Outcome.HOST_MEMORY_FULL
                detail = result.detail or f"PREPARE ended as {result.outcome.value}"
                self.fail(place, f"{place.executor.name}: {detail}")

    def _prepared(self, place: Place) -> None:
        _move(place, Stage.PREPARED)
        program = place.model.spec.program_sha256
        if place.costs.known and program in place.executor.warm_programs:
            self._ready(place)

    def _begin_probes(self, place: Place) -> None:
        _move(place, Stage.PROBING)
        settings = self.books.settings
        place.warm_ups = settings.probes_warm_up
        measured = 0 if place.costs.known else settings.probes_measured
        runs = max(1, place.warm_ups + measured)
        place.probes = [size for size in place.model.spec.batch_sizes for _ in range(runs)]
        place.probes_done, place.probes_total = 0, len(place.probes)

    def _on_probe(self, place: Place, action: Infer, result: ActionResult) -> None:
        if result.outcome is not Outcome.OK:
            place.retries += 1
            if result.outcome is Outcome.NOT_RESIDENT:
                return
            if result.outcome is Outcome.UNKNOWN_MODEL:
                self.again(place)
            elif place.retries > RETRIES:
                detail = result.detail or f"a probe ended as {result.outcome.value}"
                self.fail(place, f"{place.executor.name}: {detail}")
            return
        place.retries = 0
        spec = place.model.spec
        runs = place.probes_total // len(spec.batch_sizes)
        run = place.probes_done % runs
        if run >= place.warm_ups:
            self.books.profiles.learn_infer(
                spec.program_sha256, action.batch_size, place.executor.key, own_ns(result)
            )
        place.probes_done += 1
        del place.probes[0]
        if not place.probes:
            self._ready(place)

    def _ready(self, place: Place) -> None:
        _move(place, Stage.READY)
        place.executor.warm_programs.add(place.model.spec.program_sha256)
        place.serve_if_ready()
        model = place.model
        self.judge(model)
        self.spread.trim(model, place)
        if not model.serving:
            index = place.executor.wanted if model.queue else place.executor.fresh
            index[model.model_id] = place
            standing.want_pinned(self.books, model)


def _move(place: Place, stage: Stage) -> None:
    assert stage in STAGES[place.stage], f"{place.model.spec.name}: {place.stage} -> {stage}"
    place.stage = stage
