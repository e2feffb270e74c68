"""What people type for a stream, in the simulator and the planner.

==========================  ======================================================================
``poisson``, ``constant``,  one process for all models, shared out by their popularity; a trace's
``bursts``, ``trace:FILE``, instants or counts likewise
``counts:FILE``
``own-bursts``              bursts of its own for each model
``requests:FILE``           a trace that names what each request was for, its names laid on models
                            in blocks (Azure Functions 2021, Alibaba GenAI 2026)
``top:FILE``                the same, but only its greatest names, a model each
``minutes:FILE+FILE``       counts by the minute, a file for each day (Azure Functions 2019)
``azure-like``              a synthetic platform's day
==========================  ======================================================================
"""

from pathlib import Path

from cw.errors import ConfigError
from cw.workload.arrivals import parse_arrivals, parse_popularity
from cw.workload.model_traces import Layout, read_minute_counts, read_requests
from cw.workload.rates import AzureLike, Piecewise, RecordedCounts
from cw.workload.streams import OpenLoop, OwnBursts
from cw.workload.workload import Stream

STREAMS = (
    "poisson, constant, bursts, own-bursts, azure-like, trace:FILE, counts:FILE, requests:FILE, "
    "top:FILE or minutes:FILE"
)
"""For a command's help."""


def parse_stream(
    text: str,
    *,
    popularity: str,
    rate_rps: float | None,
    models: tuple[int, ...],
    slo_ns: int,
) -> Stream:
    """Make the stream that was typed.

    Args:
        text: As in the module's head.
        popularity: How models share what does not name them; other streams leave it out of account.
        rate_rps: The mean; None where a recording is to keep its own.
        models: The most popular first.
        slo_ns: Of each request.

    Raises:
        ConfigError: There is no such stream, it needs a rate, or its file can't be read.
    """
    kind, _, names = text.partition(":")
    match kind:
        case "requests" | "top":
            layout = Layout.TOP if kind == "top" else Layout.BLOCKS
            return read_requests(
                Path(names), models=models, slo_ns=slo_ns, layout=layout, rate_rps=rate_rps
            )
        case "minutes":
            counts = read_minute_counts([Path(one) for one in names.split("+")], models=len(models))
            source = (
                RecordedCounts(counts=counts)
                if rate_rps is None
                else RecordedCounts.at_rate(counts, rate_rps=rate_rps)
            )
            return Piecewise(source=source, models=models, slo_ns=slo_ns)
        case "azure-like":
            platform = AzureLike(models=len(models), rate_rps=_needed(text, rate_rps))
            return Piecewise(source=platform, models=models, slo_ns=slo_ns)
        case "own-bursts":
            return OwnBursts(
                rate_rps=_needed(text, rate_rps),
                popularity=parse_popularity(popularity),
                models=models,
                slo_ns=slo_ns,
            )
        case _:
            return OpenLoop(
                arrivals=parse_arrivals(text, rate_rps=rate_rps),
                popularity=parse_popularity(popularity),
                models=models,
                slo_ns=slo_ns,
            )


def _needed(text: str, rate_rps: float | None) -> float:
    if rate_rps is None or rate_rps <= 0:
        raise ConfigError(f"{text!r} needs a rate (requests/s) of more than 0, got {rate_rps}")
    return rate_rps
