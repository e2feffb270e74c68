"""Shows a plan: in words and tables, as JSON, and as a picture.

Neighbours: `sizing.py` makes plans, `plots.py` draws, `show.py` prints tables.
"""

import json
from pathlib import Path
from typing import Any

from cw.sim import plots, show
from cw.sim.experiments.experiment import Cell, Table
from cw.sim.sizing import Plan, Question
from cw.sim.sizing_cases import Case, Measured
from cw.units import MS, format_ms


def as_json(question: Question, plan: Plan) -> dict[str, Any]:
    """Give a plan as JSON can hold it; the first four keys are for programs to rely on."""
    stretch, under = question.stretch, plan.bottleneck.under
    return {
        "gpus": plan.gpus,
        "attainment": round(plan.at.attainment, 6),
        "headroom": round(plan.headroom, 3),
        "bottleneck": plan.bottleneck.resource.value,
        "target": question.target,
        "slo_ms": question.slo_ns / MS,
        "device": question.fleet.profile.name,
        "models": len(question.fleet.models),
        "policy": question.settings.policy,
        "seeds": list(question.seeds),
        "requests": plan.at.requests,
        "broken": plan.at.broken,
        "least_model_share": round(plan.at.least_model_share, 6),
        "p10_model_share": round(plan.at.p10_model_share, 6),
        "stretch": {
            "begin_s": stretch.begin_s,
            "seconds": stretch.seconds,
            "lead_in_s": stretch.lead_s,
            "trace_s": stretch.trace_s,
        },
        "bounds": {
            "compute": plan.bounds.compute,
            "memory_and_pcie": plan.bounds.memory_and_pcie,
            "all_resident": plan.bounds.all_resident,
        },
        "evidence": {
            "growth": round(under.case.growth, 3),
            "attainment": round(under.attainment, 6),
            "utilisation": round(under.utilisation, 4),
            "load_utilisation": round(under.load_utilisation, 4),
            "missed": under.requests - under.kept,
            "refused_cold": under.cold,
            "refused_otherwise": under.refused - under.cold,
            "broken": under.broken,
            "loads": under.loads,
            "pages_asked": plan.bounds.pages_asked,
            "pages": plan.gpus * question.fleet.profile.pages_total,
            "with_twice": {
                each.case.relieved.value: round(each.attainment, 6)
                for each in plan.bottleneck.relieved
                if each.case.relieved is not None
            },
        },
        "by_gpus": [_point(each, gpus=each.case.gpus) for each in plan.by_gpus],
        "by_growth": [_point(each, growth=round(each.case.growth, 4)) for each in plan.by_growth],
        "by_slo": [
            _point(each, slo_ms=_slo_ns(question, each.case) / MS, gpus=each.case.gpus)
            for each in plan.by_slo
        ],
        "notes": list(plan.notes),
    }


def _point(measured: Measured, **where: float) -> dict[str, float]:
    return where | {
        "attainment": round(measured.attainment, 6),
        "utilisation": round(measured.utilisation, 4),
    }


def _slo_ns(question: Question, case: Case) -> int:
    return round(question.slo_ns * case.slo_factor)


# --- for people -----------------------------------------------------------------------------------


def say(question: Question, plan: Plan) -> None:
    """Print a plan."""
    print("\n".join(_words(question, plan)))
    for table in tables(question, plan):
        show.print_table(table)


def _words(question: Question, plan: Plan) -> list[str]:
    at, bounds, target = plan.at, plan.bounds, f"{100 * question.target:g} %"
    fewer = next((each for each in plan.by_gpus if each.case.gpus == plan.gpus - 1), None)
    lines = [
        f"{plan.gpus} {question.fleet.profile.name}: {_percent(at)} of the requests in time "
        f"(target {target})" + (f"; with {fewer.case.gpus}: {_percent(fewer)}" if fewer else ""),
        f"head-room: the load may grow {plan.headroom:.2f} times before {target} is missed; "
        f"{plan.bottleneck.resource.value} breaks first",
        *(f"  - {line}" for line in plan.bottleneck.evidence),
        stretch_words(question),
        f"GPUs that any scheduler needs: for compute {bounds.compute}, for weights (memory and "
        f"PCIe) {bounds.memory_and_pcie}; to hold all models asked for at once: "
        f"{bounds.all_resident}",
        f"least share of a model {at.least_model_share:.3f}, p10 {at.p10_model_share:.3f}; "
        f"{at.broken} promises broken of {at.requests} requests",
    ]
    return [*lines, *(f"note: {note}" for note in plan.notes), ""]


def stretch_words(question: Question) -> str:
    """Say what part of the trace is planned for."""
    stretch = question.stretch
    what = (
        f"the whole trace, {stretch.seconds} s"
        if stretch.is_whole
        else f"the busiest {stretch.seconds} s of {stretch.trace_s} s, from second "
        f"{stretch.begin_s} on"
    )
    seeds = len(question.seeds)
    return (
        f"planned for {what} (and {stretch.lead_s} s before it to warm up, not counted), with "
        f"{seeds} seed{'s' if seeds > 1 else ''}, SLO {format_ms(question.slo_ns)}"
    )


def tables(question: Question, plan: Plan) -> list[Table]:
    """Make the tables: numbers of GPUs that were tried, and what a tighter SLO costs."""
    found = [_gpus_table(plan)]
    if plan.by_slo:
        found.append(_slo_table(question, plan))
    return found


def _gpus_table(plan: Plan) -> Table:
    return Table(
        name="plan-gpus",
        title="Tried",
        columns=(
            "GPUs", "in time %", "INFER busy %", "LOAD busy %", "cold", "refused otherwise",
            "broken", "least model %", "p10 model %",
        ),
        rows=tuple(
            (
                each.case.gpus,
                round(100 * each.attainment, 3),
                round(100 * each.utilisation, 1),
                round(100 * each.load_utilisation, 1),
                each.cold,
                each.refused - each.cold,
                each.broken,
                round(100 * each.least_model_share, 1),
                round(100 * each.p10_model_share, 1),
            )
            for each in plan.by_gpus
        ),
    )  # fmt: skip


def _slo_table(question: Question, plan: Plan) -> Table:
    numbers = sorted({each.case.gpus for each in plan.by_slo})
    factors = sorted({each.case.slo_factor for each in plan.by_slo})
    found = {(each.case.slo_factor, each.case.gpus): each for each in plan.by_slo}

    def cells(factor: float) -> tuple[Cell, ...]:
        slo = format_ms(round(question.slo_ns * factor))
        shares = (round(100 * found[factor, gpus].attainment, 3) for gpus in numbers)
        return (slo, *shares)

    return Table(
        name="plan-slo",
        title="In time %, by SLO and number of GPUs",
        columns=("SLO", *(f"{gpus} GPUs" for gpus in numbers)),
        rows=tuple(cells(factor) for factor in factors),
    )


def _percent(measured: Measured) -> str:
    return f"{100 * measured.attainment:.3f} %"


# --- files ----------------------------------------------------------------------------------------


def write(question: Question, plan: Plan, folder: Path) -> list[Path]:
    """Write tables (CSV), the plan (JSON) and the picture (PNG, SVG).

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [show.write_csv(table, folder) for table in tables(question, plan)]
    data = folder / "plan.json"
    data.write_text(json.dumps(as_json(question, plan), indent=1) + "\n", encoding="utf-8")
    return [*written, data, *plots.draw(chart(question, plan), folder)]


def chart(question: Question, plan: Plan) -> plots.Chart:
    """Describe the picture: attainment by GPUs and by growth, and the load beneath."""
    name = question.fleet.profile.name
    return plots.Chart(
        name="plan",
        title=f"{plan.gpus} x {name}: {_percent(plan.at)} in {format_ms(question.slo_ns)}, "
        f"head-room {plan.headroom:.2f}, then {plan.bottleneck.resource.value}",
        panel_inches=9,
        panels=(
            _by_number(
                question,
                plan.by_gpus,
                title="In time, by number of GPUs",
                x_label="GPUs",
                x=[each.case.gpus for each in plan.by_gpus],
                marks=((plan.gpus, f"{plan.gpus} GPUs"),),
            ),
            _by_number(
                question,
                plan.by_growth,
                title=f"In time with {plan.gpus} GPUs, as the load grows",
                x_label="times the load",
                x=[each.case.growth for each in plan.by_growth],
                marks=((plan.headroom, f"head-room {plan.headroom:.2f}"),),
            ),
            *_load_panels(question, plan),
        ),
    )


def _by_number(
    question: Question,
    points: tuple[Measured, ...],
    *,
    title: str,
    x_label: str,
    x: list[float] | list[int],
    marks: tuple[tuple[float, str], ...],
) -> plots.Panel:
    target = 100 * question.target
    shares = [100 * each.attainment for each in points]
    lowest = min(*shares, target)
    return plots.Panel(
        title=title,
        x_label=x_label,
        y_label="% in time",
        x_ticks=tuple(x) if all(isinstance(value, int) for value in x) else (),
        series=(
            plots.Series(
                label="in time",
                x=tuple(x),
                y=tuple(shares),
                labels=tuple(f"{share:.3f}" for share in shares) if len(shares) <= 12 else (),
            ),
            plots.Series(
                label=f"target {target:g} %", x=(min(x), max(x)), y=(target, target), dashed=True
            ),
        ),
        y_min=max(0.0, lowest - 0.15 * (100 - lowest)),
        y_max=100 + 0.08 * (100 - lowest),
        marks=marks,
    )


def _load_panels(question: Question, plan: Plan) -> list[plots.Panel]:
    stretch, load = question.stretch, question.stretch.load
    first = stretch.begin_s
    seconds = [float(first + second) for second in range(stretch.seconds)]
    panels = [
        plots.Panel(
            title="Offered load in what is planned for"
            + (f", mean of {len(question.seeds)} seeds" if len(question.seeds) > 1 else ""),
            x_label="second of the trace",
            y_label="requests/s",
            series=(
                plots.Series(label="offered", x=tuple(seconds), y=plan.at.offered_rps, dashed=True),
                plots.Series(label="in time", x=tuple(seconds), y=plan.at.kept_rps, colour=0),
            ),
        )
    ]
    if not stretch.is_whole:
        panels.append(
            plots.Panel(
                title="The whole trace",
                x_label="second of the trace",
                y_label="requests/s",
                series=(plots.Series(label="offered", x=load.seconds, y=load.offered_rps),),
                marks=(
                    (float(first), "planned for: from here"),
                    (float(first + stretch.seconds), "to here"),
                ),
            )
        )
    return panels
