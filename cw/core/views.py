"""Views: snapshots of the scheduler's books for people.

Neighbours: `Scheduler.status` and `Scheduler.model_status`.
"""

from cw.core.books import Books, ExecutorBooks, ModelBooks, Stage
from cw.core.lifecycle import Lifecycle
from cw.core.residency import Residency
from cw.errors import UnknownModel
from cw.messages import ClusterStatus, Epoch, ExecutorStatus, ModelId, ModelStatus, ProfileEntry


def cluster_status(books: Books, lifecycle: Lifecycle, epoch: Epoch, now_ns: int) -> ClusterStatus:
    """Show the whole cluster."""
    return ClusterStatus(
        epoch=epoch,
        queued=books.waiting_count
        + lifecycle.best_effort.count
        + sum(
            len(batch.requests)
            for executor in books.executors.values()
            for batch in executor.plan.batches
        ),
        executors=tuple(_executor(each, now_ns) for each in books.executors.values()),
        models=tuple(_model(books, each) for each in books.models.values()),
        ledger=lifecycle.tally.snapshot(),
        best_effort=lifecycle.best_effort_tally.snapshot(),
    )


def model_status(books: Books, model_id: ModelId) -> ModelStatus:
    """Show one model.

    Raises:
        UnknownModel: There is none of that id.
    """
    model = books.models.get(model_id)
    if model is None:
        raise UnknownModel(f"no model has the id {model_id}; list the models")
    return _model(books, model)


def _executor(executor: ExecutorBooks, now_ns: int) -> ExecutorStatus:
    return ExecutorStatus(
        executor_id=executor.executor_id,
        name=executor.name,
        state="preparing" if executor.bring_up else "serving",
        device=f"{executor.device.kind} {executor.device.name}",
        pages_total=executor.pages.total,
        pages_free=executor.pages.free,
        resident=tuple(
            place.model.spec.name
            for place in executor.places.values()
            if place.residency is Residency.WARM
        ),
        utilisation=executor.infer.busy.share(now_ns=now_ns),
    )


def _model(books: Books, model: ModelBooks) -> ModelStatus:
    spec = model.spec
    # Where it has come furthest: that is what makes it ready.
    order = list(Stage)
    furthest = max(
        (place for place in model.places.values() if place.stage is not Stage.FAILED),
        key=lambda place: (order.index(place.stage), place.probes_done),
        default=None,
    )
    settings = books.settings
    runs = settings.probes_warm_up + settings.probes_measured
    total = 1 + max(1, runs) * len(spec.batch_sizes)
    done = 0
    profile: tuple[ProfileEntry, ...] = ()
    load_ns = 0
    if furthest is not None:
        executor = furthest.executor
        if furthest.stage is Stage.READY:
            done = total
        elif furthest.stage not in (Stage.NEW, Stage.PREPARING):
            done = 1 + furthest.probes_done
        profile = books.profiles.entries(spec.program_sha256, spec.batch_sizes, executor.key)
        load_ns = books.profiles.load_ns(executor.device, spec.image_bytes)
    return ModelStatus(
        spec=spec,
        state=model.state,
        steps_done=min(done, total),
        steps_total=total,
        profile=profile,
        load_ns=load_ns,
        detail=model.detail,
    )
