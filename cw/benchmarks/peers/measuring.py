"""One cell: a load sent to a server, and what became of it.

Latency counts from the scheduled arrival, and only right answers count as given: each is compared
with the bare loop's own answer to the same image.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from cw.benchmarks.peers.cases import POPULARITY_EXPONENT, SLOS_NS, Cell
from cw.benchmarks.peers.servers.served import RUN_RECORD
from cw.benchmarks.peers.subjects import Subject
from cw.client import Array
from cw.sim.bound import BoundRequest, upper_bound
from cw.units import MS, SECOND
from cw.workload.arrivals import Poisson, Zipf, draw
from cw.workload.client import End, Planned, Sent, run_closed_loop, run_open_loop
from cw.workload.report import quantile, quantiles_ms

LATE_GENERATOR_NS: Final = 2 * MS
"""A cell whose requests left later than that (p99) is marked: it was another load than meant."""
_TOLERANCE: Final = 1e-3
"""Of a logit: batches and rewritten programs round differently; another model's differ by 0.1."""
_ONE_AT_A_TIME_SLO_NS: Final = SECOND

Durations = Mapping[int, int]
"""Batch size -> duration (ns)."""


class Samples:
    """Images for all models, and the right answers to them.

    Args:
        names: Of the models, the most popular first.
        images: ``float32[models, inputs, *shape]``.
        answers: ``float32[models, inputs, classes]``.
    """

    def __init__(self, names: Sequence[str], images: Array, answers: Array) -> None:
        self._places: Final = {name: place for place, name in enumerate(names)}
        self._names: Final = names
        self._inputs: Final = [[{"image": image} for image in own] for own in images]
        self._answers: Final = answers

    def planned(self, model: int, tag: int, *, at_ns: int = 0) -> Planned:
        """Make a request."""
        tag %= len(self._inputs[model])
        return Planned(
            at_ns=at_ns, model=self._names[model], inputs=self._inputs[model][tag], tag=tag
        )

    def plan(self, *, rate_rps: float, seconds: float, seed: int) -> list[Planned]:
        """Draw the requests of an open loop: the same seed, the same requests."""
        arrivals = draw(
            Poisson(rate_rps=rate_rps),
            Zipf(POPULARITY_EXPONENT),
            models=len(self._names),
            duration_ns=round(seconds * SECOND),
            seed=seed,
        )
        return [
            self.planned(arrival.model, place, at_ns=arrival.instant_ns)
            for place, arrival in enumerate(arrivals)
        ]

    def each_once(self) -> list[Planned]:
        """Make one request for each model."""
        return [self.planned(model, 0) for model in range(len(self._names))]

    def is_right(self, entry: Sent) -> bool:
        """Tell whether an answer is that of the model that was asked."""
        assert entry.result is not None
        assert entry.result.outputs is not None
        (got,) = entry.result.outputs.values()
        wanted = self._answers[self._places[entry.planned.model]][entry.planned.tag]
        return got.size == wanted.size and bool(
            np.allclose(got.reshape(-1), wanted, rtol=_TOLERANCE, atol=_TOLERANCE)
        )


async def measure_load(
    subject: Subject,
    cell: Cell,
    samples: Samples,
    *,
    rate_rps: float,
    seconds: float,
    seed: int,
    durations: Durations,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Run an open loop and say what became of it.

    Args:
        subject: The server.
        cell: Which cell this is.
        samples: What is asked.
        rate_rps: Offered.
        seconds: Of arrivals.
        seed: Of the arrivals.
        durations: Of the bare loop, for the bound.
        progress: See `run_open_loop`.
    """
    plan = samples.plan(rate_rps=rate_rps, seconds=seconds, seed=seed)
    slo_ns = cell.slo_ns or max(SLOS_NS)
    before_ns, begin_ns = subject.running.processor_ns(), time.monotonic_ns()
    with _no_garbage_collection():
        sent = await run_open_loop(
            subject.client, plan, slo_ns=slo_ns, keep_results=True, progress=progress
        )
    wall_ns = time.monotonic_ns() - begin_ns
    spent_ns = subject.running.processor_ns() - before_ns
    subject.running.check()
    return judge(sent, samples, seconds=seconds, durations=durations) | {
        "seconds": seconds,
        "seed": seed,
        "memory_mib": round(subject.running.memory_bytes() / 2**20),
        "processor_share": round(spent_ns / wall_ns, 3),
        "runs": recorded_runs(subject.runs_path.read_bytes(), begin_ns, wall_ns)
        if subject.runs_path.exists()
        else told_runs(sent, wall_ns),
    }


def judge(
    sent: Sequence[Sent], samples: Samples, *, seconds: float, durations: Durations
) -> dict[str, Any]:
    """Say which share of the requests was answered rightly within each SLO, and how late the rest.

    Args:
        sent: All requests, answered or not, with the outputs.
        samples: Which has the right answers.
        seconds: Of arrivals.
        durations: For the bound.
    """
    answered = [entry for entry in sent if entry.result and entry.result.outputs is not None]
    right = [entry for entry in answered if samples.is_right(entry)]
    within = {
        f"{slo_ns // MS}": sum(entry.latency_ns <= slo_ns for entry in right) for slo_ns in SLOS_NS
    }
    bounds = {
        f"{slo_ns // MS}": upper_bound(
            [
                BoundRequest(entry.scheduled_ns, entry.scheduled_ns + slo_ns, entry.planned.model)
                for entry in sent
            ],
            {entry.planned.model: durations for entry in sent},
            executors=1,
        )
        for slo_ns in SLOS_NS
    }
    late_ns = quantile([entry.lateness_ns for entry in sent], 0.99) or 0
    failed = Counter(entry.reason for entry in sent if entry.end is End.FAILED)
    return {
        "requests": len(sent),
        "offered_rps": round(len(sent) / seconds, 1),
        "within": within,
        "bound": {name: round(value, 1) for name, value in bounds.items()},
        "wrong": len(answered) - len(right),
        "refused": sum(entry.end is End.REFUSED for entry in sent),
        "unanswered": sum(
            entry.result is None or entry.result.failure is not None for entry in sent
        ),
        "failed": dict(failed),
        "latency_ms": quantiles_ms((entry.latency_ns for entry in right), 0.5, 0.99, 0.999),
        "sent_late_ms_p99": round(late_ns / MS, 2),
        "generator_late": late_ns > LATE_GENERATOR_NS,
    }


async def measure_added(
    subject: Subject, samples: Samples, *, models: int, seconds: float
) -> dict[str, Any]:
    """Ask one request at a time; say what a call takes beyond the device's own time."""
    plan = [samples.planned(model, 0) for model in range(models)]
    begin_ns = time.monotonic_ns()
    with _no_garbage_collection():
        sent = await run_closed_loop(
            subject.client, plan, slo_ns=_ONE_AT_A_TIME_SLO_NS, in_flight=1, seconds=seconds
        )
    kept = [entry for entry in sent if entry.end is End.KEPT]
    device_ns = [entry.result.timing.device_ns for entry in kept if entry.result]
    if subject.runs_path.exists():
        device_ns = [
            duration_ns
            for run_begin_ns, duration_ns, _ in RUN_RECORD.iter_unpack(
                subject.runs_path.read_bytes()
            )
            if run_begin_ns >= begin_ns
        ]
    if len(device_ns) != len(kept):
        return {"requests": len(sent), "problem": f"{len(device_ns)} runs, {len(kept)} answers"}
    added_ns = [entry.latency_ns - device for entry, device in zip(kept, device_ns, strict=True)]
    return {
        "requests": len(sent),
        "seconds": seconds,
        "added_ms": quantiles_ms(added_ns, 0.5, 0.99),
        "device_ms": quantiles_ms(device_ns, 0.5, 0.99),
    }


def recorded_runs(records: bytes, begin_ns: int, span_ns: int) -> dict[str, Any]:
    """Sum up what a peer recorded of its runs (`servers/network.py`) in a stretch of time.

    Args:
        records: Of all runs so far; the last one may not be whole yet.
        begin_ns: Of the stretch, by the system's monotonic clock, as in the records.
        span_ns: Its length.
    """
    whole = records[: len(records) // RUN_RECORD.size * RUN_RECORD.size]
    runs = [run for run in RUN_RECORD.iter_unpack(whole) if 0 <= run[0] - begin_ns < span_ns]
    return _runs(len(runs), sum(run[2] for run in runs), sum(run[1] for run in runs), span_ns)


def told_runs(sent: Sequence[Sent], span_ns: int) -> dict[str, Any]:
    """Sum up what cw's answers say of the batches that carried them."""
    timings = [entry.result.timing for entry in sent if entry.result and entry.result.outputs]
    timings = [timing for timing in timings if timing.batch_size]
    runs = sum(1 / timing.batch_size for timing in timings)
    busy_ns = sum(timing.device_ns / timing.batch_size for timing in timings)
    return _runs(runs, len(timings), busy_ns, span_ns)


def _runs(runs: float, rows: int, busy_ns: float, span_ns: int) -> dict[str, Any]:
    return {
        "runs": round(runs),
        "mean_batch": round(rows / runs, 2) if runs else None,
        "busy_share": round(busy_ns / span_ns, 3),
    }


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep the generator from stopping for tens of ms; what a cell makes fits in memory."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
