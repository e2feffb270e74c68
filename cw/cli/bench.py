"""Send an open-loop load and report what became of it.

Every request leaves at its scheduled instant, whatever the answers do, and its latency and SLO
count from there. The bound is what a clairvoyant scheduler could have answered in time with the
durations that the cluster measured: nobody can beat it.

Examples:
  cw bench --rate 200 --slo 50ms --seconds 30 --popularity zipf:0.9
  cw bench --models 'resnet18-*' --arrivals trace:arrivals.txt --slo 100ms --json
  cw bench --models tiny --closed 64 --seconds 10
  cw bench --models tiny --closed 1 --seconds 10 --breakdown
"""

import argparse
import fnmatch
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio
from rich.progress import Progress

from cw.cli.common import (
    add_connection,
    connected,
    count,
    duration_ns,
    find_cluster,
    people,
    positive,
    print_json,
    say,
)
from cw.client import Client
from cw.errors import ConfigError
from cw.messages import ClusterStatus, Ledger, ModelState, ModelStatus
from cw.sim.bound import BoundRequest, upper_bound
from cw.units import SECOND, format_ms
from cw.workload.arrivals import draw, parse_arrivals, parse_popularity
from cw.workload.breakdown import breakdown, breakdown_table
from cw.workload.client import Planned, Sent, random_inputs, run_closed_loop, run_open_loop
from cw.workload.report import added_latency_ns, counts, model_table, quantiles_ms, times

_INPUTS_PER_MODEL = 4
_DEFAULT_RATE_RPS = 100.0
_REQUESTS_MAX = 5_000_000
"""More than one load generator could send; each is kept until the report."""
_SETTLE_S = 0.1
"""Until the last requests' ends have reached the controller's ledger."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument(
        "--models", default="*", help="names, separated by commas; * and ? match; default all"
    )
    parser.add_argument(
        "--rate",
        type=positive,
        help="requests/s; default 100, or a trace's own rate (a trace is stretched to RATE)",
    )
    parser.add_argument("--slo", type=duration_ns, default="100ms", help="default 100ms")
    parser.add_argument("--seconds", type=positive, default=10.0, help="default 10")
    parser.add_argument(
        "--popularity", default="uniform", help="uniform (default) or zipf:EXPONENT"
    )
    parser.add_argument(
        "--arrivals",
        default="poisson",
        help="poisson (default), constant, bursts, trace:FILE or counts:FILE (per second)",
    )
    parser.add_argument(
        "--closed",
        type=count,
        metavar="N",
        help="instead: N requests in flight",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--breakdown",
        action="store_true",
        help="where the added latency goes, step by step (best with --closed 1)",
    )
    parser.add_argument("--records", type=Path, metavar="FILE", help="one JSON line per request")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; status 0 when every request got its answer."""
    report = trio.run(_bench, args)
    if args.json:
        print_json(report)
    return 0 if report["answers"] == report["requests"] else 1


async def _bench(args: argparse.Namespace) -> dict[str, Any]:
    async with connected(find_cluster(args), args.key) as client:
        report, sent = await measure(client, args)
    if args.records is not None:
        write_records(args.records, sent)
    show(report, sent)
    if args.breakdown and report["breakdown"]:
        people.print(breakdown_table(report["breakdown"]))
    return report


async def measure(
    client: Client, args: argparse.Namespace
) -> tuple[dict[str, Any], Sequence[Sent]]:
    """Send the load that the options describe; return what `--json` prints, and every request."""
    before = await client.status()
    chosen = choose_models(before.models, args.models)
    plan = make_plan(args, chosen)
    with Progress(console=people, transient=True, disable=not people.is_terminal) as progress:
        bar = progress.add_task("sending", total=len(plan) or None)
        sent = await _send(client, args, plan, lambda done: progress.update(bar, completed=done))
    await trio.sleep(_SETTLE_S)
    after = await client.status()
    # The durations of now, which this very load has taught the profiles.
    now = {model.spec.name: model for model in after.models}
    models = [now.get(model.spec.name, model) for model in chosen]  # some may be removed by now
    return make_report(sent, args, models, before, after), sent


async def _send(
    client: Client, args: argparse.Namespace, plan: Sequence[Planned], progress: Any
) -> list[Sent]:
    if args.closed:
        return await run_closed_loop(
            client, plan, slo_ns=args.slo, in_flight=args.closed, seconds=args.seconds
        )
    return await run_open_loop(client, plan, slo_ns=args.slo, progress=progress)


def choose_models(models: Sequence[ModelStatus], patterns: str) -> list[ModelStatus]:
    """Pick the models whose names match, in the order of names.

    Raises:
        ConfigError: None does, or one is not ready.
    """
    wanted = patterns.split(",")
    chosen = [model for model in models if any(fnmatch.fnmatch(model.spec.name, p) for p in wanted)]
    if not chosen:
        names = ", ".join(sorted(model.spec.name for model in models)[:10]) or "none"
        raise ConfigError(f"no model matches {patterns!r}; registered: {names}")
    for model in chosen:
        if model.state is ModelState.REGISTERING:
            raise ConfigError(f"{model.spec.name} is still registering; wait until it is ready")
        if model.state is ModelState.FAILED:
            say(f"left out: {model.spec.name} could not be prepared ({model.detail})")
    chosen = [model for model in chosen if model.state is ModelState.READY]
    if not chosen:
        raise ConfigError(f"no model that matches {patterns!r} is ready; see 'cw model list'")
    return sorted(chosen, key=lambda model: model.spec.name)


def make_plan(args: argparse.Namespace, models: Sequence[ModelStatus]) -> list[Planned]:
    """Draw the requests from the seed: the same options give the same requests."""
    generator = np.random.default_rng(args.seed)
    pools = [
        [random_inputs(model.spec, generator) for _ in range(_INPUTS_PER_MODEL)] for model in models
    ]
    if args.closed:
        return [
            Planned(at_ns=0, model=model.spec.name, inputs=pool[index], tag=index)
            for index in range(_INPUTS_PER_MODEL)
            for model, pool in zip(models, pools, strict=True)
        ]
    rate_rps = args.rate
    if rate_rps is not None and rate_rps * args.seconds > _REQUESTS_MAX:
        raise ConfigError(
            f"expected at most {_REQUESTS_MAX} requests, got {rate_rps:g}/s for {args.seconds:g} s"
        )
    if rate_rps is None and not args.arrivals.startswith("trace:"):
        rate_rps = _DEFAULT_RATE_RPS
    arrivals = draw(
        parse_arrivals(args.arrivals, rate_rps=rate_rps),
        parse_popularity(args.popularity),
        models=len(models),
        seed=args.seed,
        duration_ns=round(args.seconds * SECOND),
    )
    picks = random.Random(args.seed)
    plan = []
    for arrival in arrivals:
        tag = picks.randrange(_INPUTS_PER_MODEL)
        plan.append(
            Planned(
                at_ns=arrival.instant_ns,
                model=models[arrival.model].spec.name,
                inputs=pools[arrival.model][tag],
                tag=tag,
            )
        )
    return plan


def make_report(
    sent: Sequence[Sent],
    args: argparse.Namespace,
    models: Sequence[ModelStatus],
    before: ClusterStatus,
    after: ClusterStatus,
) -> dict[str, Any]:
    """Put together what `--json` prints."""
    span_ns = max((entry.scheduled_ns for entry in sent), default=0) - min(
        (entry.scheduled_ns for entry in sent), default=0
    )
    seconds = args.seconds if not args.closed else max(span_ns / SECOND, 1e-9)
    report = counts(sent) | times(sent, seconds)
    added = [value for entry in sent if (value := added_latency_ns(entry)) is not None]
    report["added_ms"] = quantiles_ms(added, 0.5, 0.99)
    if args.breakdown:
        report["breakdown"] = breakdown(sent)
    causes = _difference(before.ledger, after.ledger)
    if report["broken"] > sum(causes.values()):
        # In time by the gateway's clock, and late by ours: on the wire, or in this process.
        causes["lateAtClient"] = report["broken"] - sum(causes.values())
    report["broken_by_cause"] = causes
    if not args.closed:
        bound = upper_bound(
            [
                BoundRequest(entry.scheduled_ns, entry.scheduled_ns + args.slo, entry.planned.model)
                for entry in sent
            ],
            {
                model.spec.name: {entry.batch_size: entry.p50_ns for entry in model.profile}
                for model in models
            },
            executors=max(1, len(after.executors)),
        )
        report["bound_rps"] = round(bound / seconds, 2)
        report["share_of_bound"] = round(report["kept"] / bound, 4) if bound else None
    return report


def _difference(before: Ledger, after: Ledger) -> dict[str, int]:
    """Count the promises broken in between, by what the controller found to be the cause."""
    was = dict(before.broken)
    grown = {cause: count - was.get(cause, 0) for cause, count in after.broken}
    return {cause: count for cause, count in grown.items() if count}


def show(report: dict[str, Any], sent: Sequence[Sent]) -> None:
    """Print the report for people."""
    people.print(model_table(sent, title="by model"))
    late = report["sent_late_ms"]["p99"]
    if report.get("bound_rps"):
        people.print(
            f"goodput {report['goodput_rps']:.0f}/s of {report['offered_rps']:.0f}/s offered; "
            f"bound {report['bound_rps']:.0f}/s, so {report['share_of_bound']:.1%} of what was "
            "possible"
        )
    else:
        people.print(f"{report['goodput_rps']:.0f} requests/s kept")
    if report["added_ms"]["p50"] is not None:
        people.print(
            "latency beyond the model's own time on the device and its wait for other batches: "
            f"p50 {report['added_ms']['p50']:.2f} ms, p99 {report['added_ms']['p99']:.2f} ms"
        )
    if report["broken"]:
        causes = ", ".join(f"{name} {n}" for name, n in report["broken_by_cause"].items())
        people.print(f"promises broken: {report['broken']} (causes: {causes})")
    for end in ("refused", "failed"):
        if report[end]:
            reasons = ", ".join(f"{name} {n}" for name, n in report[end].items())
            people.print(f"{end}: {reasons}")
    if late is not None and late > 1:
        say(f"remark: the load generator itself was late: p99 {format_ms(round(late * 1e6))}")


def write_records(path: Path, sent: Sequence[Sent]) -> None:
    """Write one JSON line per request: schedule, end, reason, latency, where the time went."""
    import json

    from cw.cli.common import as_json

    with path.open("w") as file:
        for entry in sent:
            line = {
                "at_ns": entry.planned.at_ns,
                "model": entry.planned.model,
                "end": entry.end.value,
                "reason": entry.reason,
                "latency_ns": entry.latency_ns,
                "sent_late_ns": entry.lateness_ns,
                "timing": as_json(entry.result.timing) if entry.result else None,
            }
            file.write(json.dumps(line) + "\n")
