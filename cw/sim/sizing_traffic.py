"""The traffic to plan for: a trace's busiest stretch, which can be made to grow.

**The stretch.** The whole of a long trace takes long to simulate and mostly shows idle GPUs: what
decides is its busiest stretch, the one whose requests cost most device time (each counted at its
model's densest batch). Before it the cluster warms up: the lead-in plays what came just before (or,
where the trace begins, its first seconds one more time), and is not counted.

**Growth.** A trace grows by more of the same users: a copy of it is laid over the first, later by a
second or more, and of the last copy only a part of the requests is taken, drawn once. So bursts
stay what they are, each second's load grows alike, and what is asked at a smaller growth is asked
at every larger one, too. Squeezing time instead would shorten the bursts.

It must not know: devices. Neighbours: `cw/workload/parse.py` reads traces; `sizing.py` plays this.
"""

import csv
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from cw.errors import ConfigError
from cw.sim.sizing_models import Fleet
from cw.units import SECOND, div_ceil
from cw.workload.arrivals import Counts, parse_popularity
from cw.workload.parse import STREAMS, parse_stream
from cw.workload.rates import MINUTE, RecordedCounts
from cw.workload.rates import Piecewise as PiecewiseRates
from cw.workload.streams import OpenLoop, OwnBursts, Recording
from cw.workload.trace_files import read_lines
from cw.workload.workload import Call, Stream

_CALLS_MAX: Final = 30_000_000
"""A longer trace that is not made of counts is refused: it would not fit a laptop's memory."""
_ENDLESS: Final = ("poisson", "constant", "bursts", "own-bursts", "azure-like")
_TYPED: Final = ("trace", "counts", "requests", "top", "minutes")
_HEAD_CHARACTERS: Final = 100_000
_FOR_EVER_NS: Final = 1 << 62
_GROWTH_SEED: Final = 4_021


@attrs.frozen(kw_only=True, eq=False)
class Traffic:
    """Requests of the lead-in and the stretch: a `Stream`, the same for every seed."""

    instants_ns: NDArray[np.int64]
    """Ascending, from the begin of the lead-in."""
    models: NDArray[np.int32]
    slos_ns: tuple[int, ...]
    """By model."""
    duration_ns: int
    """Of lead-in and stretch."""
    growth: float = attrs.field(default=1.0, validator=attrs.validators.gt(0.0))

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `Stream`."""
        del seed
        instants, models = self.grown()
        slos_ns = self.slos_ns
        for instant_ns, model in zip(instants.tolist(), models.tolist(), strict=True):
            if instant_ns >= duration_ns:
                return
            yield Call(instant_ns, model, slos_ns[model])

    def grown(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Give instants and models of all requests, copies included, in order."""
        if self.growth == 1.0:
            return self.instants_ns, self.models
        # Longer than any SLO, else a request would share its batch with its own copy.
        shift_ns = max(SECOND, 2 * max(self.slos_ns))
        instants, models = [], []
        for copy in range(math.ceil(self.growth)):
            part = self.growth - copy
            chosen: NDArray[np.bool_] = np.ones(len(self.models), dtype=np.bool_)
            if part < 1:
                draws = np.random.Generator(np.random.PCG64([_GROWTH_SEED, copy]))
                chosen = draws.random(len(self.models)) < part
            instants.append((self.instants_ns[chosen] + copy * shift_ns) % self.duration_ns)
            models.append(self.models[chosen])
        all_instants, all_models = np.concatenate(instants), np.concatenate(models)
        order = np.argsort(all_instants, kind="stable")
        return all_instants[order], all_models[order]


@attrs.frozen(kw_only=True)
class Load:
    """What a trace offers over time, for people to look at."""

    seconds: tuple[float, ...]
    """The begin of each step."""
    offered_rps: tuple[float, ...]


@attrs.frozen(kw_only=True, eq=False)
class Stretch:
    """What is planned for, and where in the trace it lies."""

    traffics: tuple[Traffic, ...]
    """One a seed."""
    begin_s: int
    """Of the counted part, in the trace as the first seed draws it."""
    lead_s: int
    seconds: int
    """Of the counted part."""
    trace_s: int
    """Of the whole trace."""
    load: Load

    @property
    def is_whole(self) -> bool:
        """Whether all of the trace is counted."""
        return self.begin_s == 0 and self.seconds >= self.trace_s


@attrs.frozen
class _Shares:
    """Traffic in the proportions that the models' file gives. A `Popularity`."""

    of_models: tuple[float, ...]

    def weights(self, models: int) -> list[float]:
        """See `Popularity`."""
        assert models == len(self.of_models)
        return list(self.of_models)


# --- reading --------------------------------------------------------------------------------------


def kind_of(text: str) -> str:
    """Turn a plain file's name into what `parse_stream` reads, by a look at its head.

    Raises:
        ConfigError: There is no such file or stream.
    """
    kind, _, names = text.partition(":")
    if text in _ENDLESS or (kind in _TYPED and names):
        return text
    paths = [Path(name) for name in text.split("+")]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(
            f"--trace: expected a file, or one of {STREAMS}; there is no file {str(missing[0])!r}"
        )
    # A file of counts is one long line, of which the head says enough.
    head = next(iter(read_lines(paths[0])), "")[:_HEAD_CHARACTERS]
    header = next(csv.reader([head]), [])
    if "HashFunction" in header:
        return f"minutes:{text}"
    if len(paths) > 1:
        raise ConfigError(
            f"--trace: expected one file, or days of the Azure Functions trace of 2019 (with a "
            f"column HashFunction) joined by +, got {text!r}"
        )
    if "func" in header or "checkpoint_model_version_id" in header:
        return f"requests:{text}"
    words = head.split()
    if len(words) > 1 and all(word.isdigit() for word in words):
        return f"counts:{text}"
    return f"trace:{text}"


def read_stream(
    text: str, fleet: Fleet, *, rate_rps: float | None, popularity: str | None, slo_ns: int
) -> Stream:
    """Read a trace, or make a synthetic stream, and lay it on the models.

    Args:
        text: As `kind_of` gives it.
        fleet: Its shares say who gets what where the trace does not.
        rate_rps: The mean of the whole trace; None leaves a recording as it is.
        popularity: In place of the fleet's shares.
        slo_ns: Of a model that has none of its own.

    Raises:
        ConfigError: It can't be read, or needs a rate.
    """
    stream = parse_stream(
        text,
        popularity="uniform",
        rate_rps=rate_rps,
        models=tuple(range(len(fleet.models))),
        slo_ns=slo_ns,
    )
    if isinstance(stream, OpenLoop | OwnBursts):
        shares = parse_popularity(popularity) if popularity else _Shares(fleet.shares)
        return attrs.evolve(stream, popularity=shares)
    if popularity is not None:
        raise ConfigError(
            f"--popularity: {text!r} says itself which model each request is for; leave it out"
        )
    return stream


def find_stretch(
    stream: Stream,
    fleet: Fleet,
    *,
    slos_ns: tuple[int, ...],
    seeds: tuple[int, ...],
    window_s: int | None,
    lead_s: int,
    endless_s: int | None,
) -> Stretch:
    """Find the busiest stretch of a trace, for each seed.

    Args:
        stream: The trace.
        fleet: Says what a request costs.
        slos_ns: By model.
        seeds: Of what a trace leaves open.
        window_s: Length of the stretch; None: the whole trace.
        lead_s: Warm-up before it.
        endless_s: How much to draw of a stream without an end; None: it is a recording.

    Raises:
        ConfigError: Nothing is asked for, or too much to be held in memory.
    """
    costs = _costs(fleet)
    offset_s, load, trace_s = 0, None, 0
    if window_s is not None:
        stream, offset_s, load, trace_s = _cut_counts(stream, costs, window_s=window_s + lead_s)
    until_ns = _FOR_EVER_NS if endless_s is None else endless_s * SECOND
    instants, models = _drawn(stream, seeds[0], until_ns)
    if not len(instants):
        raise ConfigError("expected at least one request in the traffic, found none")
    length_s = endless_s or div_ceil(int(instants[-1]) + 1, SECOND)
    seconds = length_s if window_s is None else min(window_s, length_s)
    if load is None:
        load, trace_s = _load(np.bincount(instants // SECOND, minlength=length_s)), length_s
    traffics, begins_s = [], []
    for seed in seeds:
        if seed != seeds[0]:
            instants, models = _drawn(stream, seed, until_ns)
        # Where bursts are drawn, they come at other times with each seed.
        cost = np.bincount(instants // SECOND, weights=costs[models], minlength=length_s)
        begin_s = _busiest(cost[:length_s], seconds)
        begins_s.append(begin_s)
        traffics.append(
            _region(
                instants, models, begin_s=begin_s, lead_s=lead_s, seconds=seconds, slos_ns=slos_ns
            )
        )
    return Stretch(
        traffics=tuple(traffics),
        begin_s=offset_s + begins_s[0],
        lead_s=lead_s,
        seconds=seconds,
        trace_s=trace_s,
        load=load,
    )


def _busiest(per_step: NDArray[Any], width: int) -> int:
    """Find the first step of the stretch of so many steps with the greatest sum."""
    sums = np.concatenate([[0.0], np.cumsum(per_step)])
    return int(np.argmax(sums[width:] - sums[:-width]))


def is_endless(text: str) -> bool:
    """Whether what `kind_of` gave is a stream without an end."""
    return text in _ENDLESS


def is_recorded(stream: Stream) -> bool:
    """Whether a stream says of each request when it came and for which model."""
    return isinstance(stream, Recording)


def _costs(fleet: Fleet) -> NDArray[np.float64]:
    """Say what a request of each model costs at least: device time (ns) in its densest batch."""
    tables = (fleet.table_of(model) for model in range(len(fleet.models)))
    return np.array([min(ns / size for size, ns in table.items()) for table in tables])


def _drawn(stream: Stream, seed: int, until_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    instants, models = array("q"), array("i")
    for instant_ns, model, _ in stream.calls(seed=seed, duration_ns=until_ns):
        instants.append(instant_ns)
        models.append(model)
        if len(models) > _CALLS_MAX:
            raise ConfigError(
                f"expected a trace of at most {_CALLS_MAX:,} requests: cut the file to its "
                "busiest hours, or bring it down with --rate"
            )
    return np.array(instants, dtype=np.int64), np.array(models, dtype=np.int32)


def _region(
    instants: NDArray[np.int64],
    models: NDArray[np.int32],
    *,
    begin_s: int,
    lead_s: int,
    seconds: int,
    slos_ns: tuple[int, ...],
) -> Traffic:
    """Cut lead-in and stretch out of the trace."""
    begin_ns, end_ns = begin_s * SECOND, (begin_s + seconds) * SECOND
    lead_ns = lead_s * SECOND
    from_ns = max(0, begin_ns - lead_ns)
    missing_ns = lead_ns - (begin_ns - from_ns)
    first, last = np.searchsorted(instants, (from_ns, end_ns))
    again = int(np.searchsorted(instants, from_ns + missing_ns)) if missing_ns else first
    again = max(int(first), min(again, int(last)))
    return Traffic(
        instants_ns=np.concatenate(
            [instants[first:again] - from_ns, instants[first:last] - from_ns + missing_ns]
        ),
        models=np.concatenate([models[first:again], models[first:last]]),
        slos_ns=slos_ns,
        duration_ns=lead_ns + seconds * SECOND,
    )


# --- traces of counts -----------------------------------------------------------------------------


def _cut_counts(
    stream: Stream, costs: NDArray[np.float64], *, window_s: int
) -> tuple[Stream, int, Load | None, int]:
    """Cut traces that are made of counts before they are drawn: days of them are too many requests.

    Returns:
        The stream of what may be planned for, the second at which it begins, the whole trace's
        load and length; the load is None where nothing was cut.
    """
    match stream:
        case OpenLoop(arrivals=Counts(per_second=counts, rate_rps=rate_rps)):
            if len(counts) <= window_s:
                return stream, 0, None, 0
            per_second = np.array(counts, dtype=np.float64)
            scale = 1.0 if rate_rps is None else rate_rps * len(counts) / sum(counts)
            begin = _busiest(per_second, window_s)
            part = counts[begin : begin + window_s]
            arrivals = Counts(per_second=part, rate_rps=scale * sum(part) / len(part))
            load = _load(per_second * scale)
            return attrs.evolve(stream, arrivals=arrivals), begin, load, len(counts)
        case PiecewiseRates(source=RecordedCounts() as source):
            minutes = div_ceil(window_s * SECOND, MINUTE)
            total = source.counts.shape[1]
            if total <= minutes:
                return stream, 0, None, 0
            cost = costs[: len(source.counts)] @ source.counts
            begin = _busiest(cost, minutes)
            part_of = source.counts[:, begin : begin + minutes]
            per_minute = source.counts.sum(axis=0) * source.scale / 60
            cut = attrs.evolve(stream, source=attrs.evolve(source, counts=part_of))
            return cut, begin * 60, _load(per_minute, step_s=60), total * 60
        case _:
            return stream, 0, None, 0


def _load(per_step: NDArray[Any], *, step_s: int = 1, points: int = 1500) -> Load:
    """Thin out a trace's load for a plot: of many steps the greatest is shown, as peaks decide."""
    together = div_ceil(len(per_step), points)
    starts = np.arange(0, len(per_step), together)
    peaks = np.maximum.reduceat(per_step, starts)
    return Load(
        seconds=tuple(float(start * step_s) for start in starts),
        offered_rps=tuple(float(peak) for peak in peaks),
    )
