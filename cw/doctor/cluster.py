"""A running cluster: whether it answers, whose clocks are good, how true its estimates are."""

from collections.abc import Iterator

import attrs

from cw.config import SchedulerSettings
from cw.doctor.finding import Finding, Verdict, ok
from cw.messages import ClusterStatus, ModelState
from cw.units import MS, SECOND, format_ms

ANSWER_WITHIN_NS = 100 * MS
"""For a gateway to describe the cluster: it asks the controller, and neither may be stalled."""
RUNS_LEAST = 100
"""With fewer, a share in percent says nothing."""
_OVERRUNS_MOST = 0.01
"""An estimate is the 99 % quantile of what was measured (`profile_quantile`)."""
_BROKEN_MOST = 0.01
_SHOWN = 3
_MARGIN_NS = SchedulerSettings().margin_ns


@attrs.frozen(kw_only=True)
class RecordFacts:
    """What one executor wrote down of its last minutes."""

    executor: str
    joins: int
    """How often it joined the present controller: more than once means it was lost between."""
    clock_offset_ns: int
    """Cluster time less its own clock, at its last action; clocks begin at any number."""
    clock_error_ns: int
    """Bound on the error of that, either way: the mean of all actions' in the span."""
    runs: int
    """INFERs with requests."""
    overruns: int
    """Of these, the ones that took longer than estimated."""
    worst_model: str = ""
    """The one with the most overruns."""


@attrs.frozen(kw_only=True)
class ClusterFacts:
    """What a gateway answered, and what the executors' records hold."""

    address: str
    error: str = ""
    """Why there is no answer; empty if there is one."""
    answer_ns: int = 0
    """From asking for the status to having it, on an open connection."""
    status: ClusterStatus | None = None
    http: tuple[tuple[str, str], ...] = ()
    """Its HTTP doors: URL, and why nobody can connect there (empty: one can)."""
    executors_asked: int | None = None
    """How many were started; None: not known here."""
    records: tuple[RecordFacts, ...] | None = None
    """By executor; None: the cluster's folder is not here."""
    span_s: int = 0
    """The records are of so long."""


def check(facts: ClusterFacts) -> tuple[Finding, ...]:
    """Judge them."""
    if facts.status is None:
        return (_silent(facts),)
    findings = [
        _answer(facts),
        *_http(facts),
        *_cells(facts.status),
        _executors(facts, facts.status),
        _models(facts.status),
        _broken(facts.status),
    ]
    if facts.records is None:
        findings.append(
            ok("clocks, estimates, restarts", "not known here: --folder names a cluster's folder")
        )
    else:
        findings += _records(facts.records, facts.span_s)
    return tuple(findings)


def _silent(facts: ClusterFacts) -> Finding:
    return Finding(
        check="gateway",
        verdict=Verdict.PROBLEM,
        found=f"no answer: {facts.error}",
        expected="a gateway that describes its cluster",
        why="nobody is served by this address",
        mend="tools/devcluster up   starts one here; elsewhere see that the gateway runs, listens "
        "on this address (ss -ltnp) and that no firewall lies between; its log says more. A "
        "tenant's key is given by --key or CW_KEY",
    )


def _answer(facts: ClusterFacts) -> Finding:
    found = f"{facts.address} describes the cluster in {format_ms(facts.answer_ns)}"
    if facts.answer_ns <= ANSWER_WITHIN_NS:
        return ok("gateway", found)
    return Finding(
        check="gateway",
        verdict=Verdict.WARNING,
        found=found,
        expected=f"within {format_ms(ANSWER_WITHIN_NS)}",
        why="the event loop of the gateway or the controller is late by as much, for each request",
        mend="see which process is busy: top -H; more gateways (--gateways N), or cores of their "
        "own (tools/devcluster up --pin)",
    )


def _http(facts: ClusterFacts) -> Iterator[Finding]:
    if not facts.http:
        return
    closed = [f"{url}: {error}" for url, error in facts.http if error]
    if not closed:
        yield ok("HTTP doors", ", ".join(url for url, _ in facts.http))
        return
    yield Finding(
        check="HTTP doors",
        verdict=Verdict.PROBLEM,
        found=_some(closed),
        expected="that each takes connections",
        why="nobody is served by this address",
        mend="ss -ltnp   shows who listens where; logs/gateway-*.log in the cluster's folder say "
        "why a gateway ended",
    )


def _cells(status: ClusterStatus) -> Iterator[Finding]:
    """A cell's epoch is 0 while its controller can't be reached."""
    if not status.cells:
        return
    lost = [f"cell {cell.cell}" for cell in status.cells if cell.epoch == 0]
    if not lost:
        yield ok("cells", f"{len(status.cells)} reached")
        return
    yield Finding(
        check="cells",
        verdict=Verdict.PROBLEM,
        found=f"no controller answers for {_some(lost)}",
        expected=f"all {len(status.cells)} reached",
        why="its executors have no plan: its share of the requests goes to the other cells",
        mend="less +G logs/controller*.log   in the cluster's folder; see that it runs, and that "
        "the gateway's --controller names its address",
    )


def _executors(facts: ClusterFacts, status: ClusterStatus) -> Finding:
    names = [executor.name for executor in status.executors]
    found = f"{len(names)} joined" if names else "none joined"
    asked = facts.executors_asked
    if names and (asked is None or len(names) >= asked):
        return ok("executors", f"{found}: {_some(sorted(names))}")
    return Finding(
        check="executors",
        verdict=Verdict.WARNING if names else Verdict.PROBLEM,
        found=found,
        expected="one or more" if asked is None else f"{asked}",
        why="what is missing serves nobody, and the others have its load",
        mend="less +G logs/executor-*.log   in the cluster's folder: those that are missing say "
        "why they ended, or which address they dial",
    )


def _models(status: ClusterStatus) -> Finding:
    failed = [model for model in status.models if model.state is ModelState.FAILED]
    if not failed:
        return ok("models", f"{len(status.models)}, none failed")
    return Finding(
        check="models",
        verdict=Verdict.PROBLEM,
        found=f"{len(failed)} of {len(status.models)} failed: "
        + _some([f"{model.spec.name} ({model.detail})" for model in failed]),
        expected="none failed",
        why="each of their requests is refused",
        mend=f"cw model show {failed[0].spec.name}   says why; then 'cw model remove' it, and "
        "'add' it anew",
    )


def _broken(status: ClusterStatus) -> Finding:
    ledger = status.ledger
    broken = sum(count for _, count in ledger.broken)
    promised = ledger.kept + broken
    if not promised:
        return ok("promises", "none given yet")
    found = f"{broken} of {promised} broken ({broken / promised:.2%})"
    if broken <= _BROKEN_MOST * promised:
        return ok("promises", found)
    causes = sorted(ledger.broken, key=lambda pair: -pair[1])
    return Finding(
        check="promises",
        verdict=Verdict.WARNING,
        found=f"{found}; " + _some([f"{name} {count}" for name, count in causes]),
        expected=f"at most {_BROKEN_MOST:.0%} since the controller's start",
        why="a promise broken is the one thing that must not happen",
        mend="cw trace draw   shows planned beside actual for the last seconds; docs/errors.md "
        "says what each cause means",
    )


def _records(records: tuple[RecordFacts, ...], span_s: int) -> Iterator[Finding]:
    if not records:
        yield ok("clocks, estimates, restarts", "no action was run yet")
        return
    yield _clocks(records)
    yield _overruns(records, span_s)
    yield _restarts(records, span_s)


def _clocks(records: tuple[RecordFacts, ...]) -> Finding:
    each = sorted(records, key=lambda record: -record.clock_error_ns)
    found = _some(
        [
            f"{record.executor} ± {format_ms(record.clock_error_ns)} "
            f"(offset {record.clock_offset_ns / SECOND:,.3f} s)"
            for record in each
        ]
    )
    if each[0].clock_error_ns <= _MARGIN_NS:
        return ok("clocks", found)
    return Finding(
        check="clocks",
        verdict=Verdict.WARNING,
        found=found,
        expected=f"known to {format_ms(_MARGIN_NS)}, the scheduler's margin",
        why="an executor that is unsure of the cluster's time closes its windows that much "
        "earlier, so actions are rejected; the error is half of the quickest round trip",
        mend="ping -c 20 HOST   of the controller, from the executor's machine: look for a slow or "
        "busy network, and for an event loop that is late (real-time priority, wake-ups)",
    )


def _overruns(records: tuple[RecordFacts, ...], span_s: int) -> Finding:
    runs = sum(record.runs for record in records)
    overruns = sum(record.overruns for record in records)
    found = f"{overruns} of {runs} runs took longer than estimated in the last {span_s // 60} min"
    if runs < RUNS_LEAST:
        return ok("estimates", f"{found}: too few to judge")
    if overruns <= _OVERRUNS_MOST * runs:
        return ok("estimates", found)
    worst = max(records, key=lambda record: record.overruns)
    return Finding(
        check="estimates",
        verdict=Verdict.WARNING,
        found=f"{found} ({overruns / runs:.1%}); most of all {worst.worst_model} on "
        f"{worst.executor}",
        expected=f"at most {_OVERRUNS_MOST:.0%}",
        why="a run that takes longer makes all that wait behind it late",
        mend=f"cw profile {worst.worst_model}   shows its durations; what disturbs the device may "
        "be among the findings about its machine",
    )


def _restarts(records: tuple[RecordFacts, ...], span_s: int) -> Finding:
    again = [f"{each.executor} ({each.joins - 1})" for each in records if each.joins > 1]
    if not again:
        return ok("restarts", f"no executor was lost in the last {span_s // 60} min")
    return Finding(
        check="restarts",
        verdict=Verdict.WARNING,
        found=f"lost and joined again in the last {span_s // 60} min: {_some(again)}",
        expected="none",
        why="what an executor has promised is broken when it is lost, and its models are cold when "
        "it is back",
        mend="less +G logs/executor-*.log   in the cluster's folder: the lines before it started "
        "anew say why it ended",
    )


def _some(texts: list[str]) -> str:
    shown = ", ".join(texts[:_SHOWN])
    more = len(texts) - _SHOWN
    return shown if more <= 0 else f"{shown} and {more} more"
