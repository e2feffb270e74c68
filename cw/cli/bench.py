"""Send an open-loop load and report what became of it.

Every request leaves at its scheduled instant, whatever the answers do, and its latency and SLO
count from there. The bound is what a clairvoyant scheduler could have answered in time with the
durations that the cluster measured: nobody can beat it.

Examples:
  cw bench --rate 200 --slo 50ms --seconds 30 --popularity zipf:0.9
  cw bench --models 'resnet18-*' --arrivals trace:arrivals.txt --slo 100ms --json
  cw bench --models tiny --closed 64 --seconds 10
  cw bench --models tiny --closed 1 --seconds 10 --breakdown
  cw bench --rate 50 --best-effort
"""

import argparse
import fnmatch
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import trio
from rich.progress import Progress

from cw.cli.common import (
    add_connection,
    add_slo,
    connected,
    count,
    find_cluster,
    people,
    positive,
    print_json,
    run_async,
    say,
    slo_of,
)
from cw.client import Client
from cw.errors import ConfigError, CwError, PeerDisconnected, PeerSilent
from cw.messages import ClusterStatus, Ledger, ModelState, ModelStatus, RefusalReason
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
_STATUS_S = 5.0
"""For the cluster's status after the load, which a gateway that is alive tells in milliseconds."""
_REMARKS: Final = {
    PeerSilent.__name__: (
        "not answered within the SLO and a second more: more is in flight than the gateway, or "
        "this load generator, gets through in that time; lower --closed or --rate, or run several"
    ),
    PeerDisconnected.__name__: "the gateway closed the connection, or died: see its log",
    RefusalReason.BUSY.value: (
        "more is in flight than one gateway keeps: lower --closed or --rate, or see "
        "[gateway] max_open_requests"
    ),
}
"""What to do about reasons that are not about the models."""
_LATE_HERE: Final = "lateAtClient"
_LATE_HERE_SHARE = 0.02
"""Of all requests; more says something of the load generator rather than of the cluster."""
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
    add_slo(parser)
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
    """Run the command; status 0 when every request got its answer, 130 when it was interrupted."""
    if args.records is not None:
        args.records.open("a").close()  # what can't be written is told before the load, not after
    report = run_async(_bench, args)
    if args.json:
        print_json(report)
    if report["interrupted"]:
        return 130
    return 0 if report["answers"] == report["requests"] and not report["gateway_lost"] else 1


async def _bench(args: argparse.Namespace) -> dict[str, Any]:
    load = trio.CancelScope()
    async with (
        connected(find_cluster(args), args.key) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_end_on_interrupt, load)
        report, sent = await measure(client, args, load=load)
        nursery.cancel_scope.cancel()
    if args.records is not None:
        write_records(args.records, sent)
    show(report, sent)
    if args.breakdown and report["breakdown"]:
        people.print(breakdown_table(report["breakdown"]))
    return report


async def _end_on_interrupt(load: trio.CancelScope) -> None:
    """Have the first Ctrl-C end the load, whose report follows; a second one ends the command."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        await anext(aiter(signals))
    load.cancel()


async def measure(
    client: Client, args: argparse.Namespace, *, load: trio.CancelScope | None = None
) -> tuple[dict[str, Any], Sequence[Sent]]:
    """Send the load that the options describe.

    Args:
        client: Where to.
        args: The command's options.
        load: Cancel it to end the load early and have a report of what was answered by then.

    Returns:
        What `--json` prints, and every request.
    """
    load = load or trio.CancelScope()
    before = await client.status()
    chosen = choose_models(before.models, args.models)
    plan = make_plan(args, chosen)
    with Progress(console=people, transient=True, disable=not people.is_terminal) as progress:
        bar = progress.add_task("sending", total=len(plan) or None)
        sent = await _send(
            client, args, plan, lambda done: progress.update(bar, completed=done), load
        )
    if not sent and load.cancel_called:
        raise KeyboardInterrupt
    await trio.sleep(_SETTLE_S)
    after = await _status_if_alive(client)
    # The durations of now, which this very load has taught the profiles.
    now = {model.spec.name: model for model in (after or before).models}
    models = [now.get(model.spec.name, model) for model in chosen]  # some may be removed by now
    report = make_report(sent, args, models, before, after, cut_short=load.cancel_called)
    return report, sent


async def _status_if_alive(client: Client) -> ClusterStatus | None:
    """Ask for the cluster's status; None where it died under the load, which is told as well."""
    with trio.move_on_after(_STATUS_S):
        try:
            return await client.status()
        except CwError:
            return None
    return None


async def _send(
    client: Client,
    args: argparse.Namespace,
    plan: Sequence[Planned],
    progress: Callable[[int], object],
    load: trio.CancelScope,
) -> list[Sent]:
    if args.closed:
        return await run_closed_loop(
            client,
            plan,
            slo_ns=slo_of(args),
            in_flight=args.closed,
            seconds=args.seconds,
            scope=load,
        )
    return await run_open_loop(client, plan, slo_ns=slo_of(args), progress=progress, scope=load)


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
    if not plan:
        raise ConfigError(
            f"expected at least one request, got none: nothing arrives within {args.seconds:g} s "
            "at that rate; raise --rate or --seconds"
        )
    return plan


def make_report(
    sent: Sequence[Sent],
    args: argparse.Namespace,
    models: Sequence[ModelStatus],
    before: ClusterStatus,
    after: ClusterStatus | None,
    *,
    cut_short: bool = False,
) -> dict[str, Any]:
    """Put together what `--json` prints; `after` is None where the cluster no longer answers."""
    span_ns = max((entry.scheduled_ns for entry in sent), default=0) - min(
        (entry.scheduled_ns for entry in sent), default=0
    )
    whole = not args.closed and not cut_short
    seconds = args.seconds if whole else max(span_ns / SECOND, 1e-9)
    report = counts(sent) | times(sent, seconds)
    report |= {"interrupted": cut_short, "gateway_lost": after is None}
    added = [value for entry in sent if (value := added_latency_ns(entry)) is not None]
    report["added_ms"] = quantiles_ms(added, 0.5, 0.99)
    if args.breakdown:
        report["breakdown"] = breakdown(sent)
    causes = {} if after is None else _difference(before.ledger, after.ledger)
    if after is not None and report["broken"] > sum(causes.values()):
        # In time by the gateway's clock, and late by ours: on the wire, or in this process.
        causes[_LATE_HERE] = report["broken"] - sum(causes.values())
    report["broken_by_cause"] = causes
    if not args.closed and not args.best_effort:
        bound = upper_bound(
            [
                BoundRequest(entry.scheduled_ns, entry.scheduled_ns + args.slo, entry.planned.model)
                for entry in sent
            ],
            {
                model.spec.name: {entry.batch_size: entry.p50_ns for entry in model.profile}
                for model in models
            },
            executors=max(1, len((after or before).executors)),
        )
        report["bound_rps"] = round(bound / seconds, 2)
        report["share_of_bound"] = round(report["kept"] / bound, 4) if bound else None
    return report


def _difference(before: Ledger, after: Ledger) -> dict[str, int]:
    """Count the promises broken in between, by what the controller found to be the cause."""
    was = dict(before.broken)
    grown = {cause: count - was.get(cause, 0) for cause, count in after.broken}
    # Below 0 where a controller died meanwhile: the next one counts anew.
    return {cause: count for cause, count in grown.items() if count > 0}


def show(report: dict[str, Any], sent: Sequence[Sent]) -> None:
    """Print the report for people."""
    people.print(model_table(sent, title="by model"))
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
        causes = _listed(report["broken_by_cause"]) or "not known"
        people.print(f"promises broken: {report['broken']} (causes: {causes})")
    for end in ("refused", "failed"):
        if report[end]:
            people.print(f"{end}: {_listed(report[end])}")
    _show_remarks(report)


def _show_remarks(report: dict[str, Any]) -> None:
    """Say what the figures do not: what to do about losses, and what became of the run itself."""
    for reason, remark in _REMARKS.items():
        if reason in report["failed"] or reason in report["refused"]:
            say(f"remark: {reason}: {remark}")
    if report["broken_by_cause"].get(_LATE_HERE, 0) > _LATE_HERE_SHARE * report["requests"]:
        say(
            f"remark: {_LATE_HERE}: this load generator reads answers too late, so it is what is "
            "measured; lower --closed or --rate, or run several on other cores"
        )
    if report["gateway_lost"]:
        say("remark: the gateway no longer answers: see 'cw status' and the logs of the cluster")
    if report["interrupted"]:
        say("remark: interrupted; this is what had been answered by then")
    late = report["sent_late_ms"]["p99"]
    if late is not None and late > 1:
        say(f"remark: the load generator itself was late: p99 {format_ms(round(late * 1e6))}")


def _listed(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counted.items())


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
