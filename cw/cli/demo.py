"""The demo: a real cluster, two trained models, real inputs, ten seconds of load, right answers.

Needs torch, since every output is compared with what the model itself gives, run directly.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import trio
from rich.progress import Progress

from cw.cli.cluster import RunningCluster, running_cluster, stopped_by_signals
from cw.cli.common import connected, people, print_json
from cw.cli.model import add_models
from cw.client import Array, Client
from cw.config import ClusterSettings, ExecutorSettings
from cw.errors import ConfigError
from cw.messages import ModelStatus
from cw.models.archive import Archive
from cw.models.examples import efficientnet, minilm
from cw.models.examples.example import Example, compute_with
from cw.units import MS, SECOND, MiB, format_ms
from cw.workload.arrivals import Poisson, Uniform, draw
from cw.workload.client import Planned, Sent, run_open_loop
from cw.workload.report import by_model, counts, model_table, times

SENTENCES: Final = (
    "A kitten sleeps in the sun.",
    "The cat is lying on a warm window sill.",
    "Stocks fell sharply after the central bank raised rates.",
    "The central bank left interest rates unchanged.",
    "Preheat the oven and line a tin with baking paper.",
    "Whisk the eggs with sugar until they are pale.",
    "The train to the coast leaves at a quarter past nine.",
    "A signal failure delayed every train this morning.",
    "She scored the winning goal in the last minute.",
    "The telescope found water on a distant planet.",
    "Rain is expected in the north, with sunny spells later.",
    "How do I return a parcel that arrived damaged?",
)

_LOAD_SHARE: Final = 0.4
"""Of one executor's time that the load asks for, in batches of one. All processes of the demo and
its load generator share the machine, so this leaves the executors most of what they need."""

_BATCH_SIZES: Final = (1, 2, 4, 8)
"""A processor gains nothing by more, and measuring 16 would take as long as all of these."""

_MEMORY_BYTES: Final = 256 * MiB
"""Of each executor: twice what both models need, and quick to find on any machine."""

_SLO_FACTOR: Final = 8
_SLO_MIN_NS: Final = 200 * MS


@attrs.frozen(kw_only=True)
class Subject:
    """One model of the demo, with its inputs and what is right for each."""

    example: Example
    archive: Archive
    captions: tuple[str, ...]
    """What each input is, for people."""
    inputs: tuple[Mapping[str, Array], ...]
    expected: tuple[Mapping[str, Array], ...]


def demo(args: argparse.Namespace) -> int:
    """Run the demo; return 0 only if every output was right and every request was answered."""
    folder = Path(tempfile.mkdtemp(prefix="cw-demo-"))
    good = stopped = False
    try:
        report = trio.run(_until_stopped, folder, args.seconds)
        stopped = report is None
        if report is not None:
            good = bool(
                report["wrong"] == 0 and report["answers"] == report["requests"] and report["kept"]
            )
            if args.json:
                print_json(report)
    finally:
        if good or stopped:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            people.print(f"the cluster's store and logs are left in {folder}", soft_wrap=True)
    return 130 if stopped else int(not good)


async def _until_stopped(folder: Path, seconds: float) -> dict[str, Any] | None:
    """Run the demo; None if a signal ended it."""
    reports = []
    async with stopped_by_signals():
        reports.append(await _demo(folder, seconds))
    return reports[0] if reports else None


async def _demo(folder: Path, seconds: float) -> dict[str, Any]:
    executor = ExecutorSettings(gpu_memory_bytes=_MEMORY_BYTES)
    settings = ClusterSettings(executor=executor)
    people.print(
        f"1. starting a cluster of {2 + settings.executors} processes (a controller, a gateway and "
        f"{settings.executors} executors that compute with torch on the CPU);\n"
        "   meanwhile exporting two trained models, whose weights came with installed packages"
    )
    async with trio.open_nursery() as nursery:
        packing = _Packing(folder)
        nursery.start_soon(packing.run)
        async with (
            running_cluster(settings, folder / "cluster") as cluster,
            connected(cluster.endpoint, "") as client,
        ):
            subjects = await packing.result()
            people.print("2. adding the models: upload, verify, measure every batch size")
            models = await add_models(
                client,
                cluster.endpoint,
                [subject.archive.folder for subject in subjects],
                allow_program=True,
            )
            _show_profiles(models)
            sent, slo_ns = await _send(client, subjects, models, seconds)
            report = await _report(client, cluster, subjects, sent, seconds)
    title = f"open loop for {seconds:g} s, SLO {format_ms(slo_ns)}; times in ms"
    people.print()
    people.print(model_table(sent, title=title))
    _show_outputs(subjects, sent)
    _conclude(report)
    return report


@attrs.define(eq=False)
class _Packing:
    """Packs in a thread, beside what the event loop does."""

    folder: Path
    _subjects: list[Subject] = attrs.field(factory=list, init=False)
    _done: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def run(self) -> None:
        """Pack.

        Raises:
            ConfigError: The models' packages are not installed.
        """
        # Ctrl-C does not wait for an export: the thread ends with the process.
        work = partial(_pack_subjects, self.folder)
        try:
            self._subjects = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        except ModuleNotFoundError as exc:
            raise ConfigError(str(exc)) from exc
        self._done.set()

    async def result(self) -> list[Subject]:
        """Wait for what was packed."""
        await self._done.wait()
        return self._subjects


def _pack_subjects(folder: Path) -> list[Subject]:
    compute_with(threads=1)
    ids, mask = minilm.tokenize(SENTENCES)
    sentences = {
        text: {"ids": i, "mask": m} for text, i, m in zip(SENTENCES, ids, mask, strict=True)
    }
    photos = {name: {"image": efficientnet.photo(name)} for name in efficientnet.PHOTOS}
    return [
        _subject(minilm.MINILM, sentences, folder),
        _subject(efficientnet.EFFICIENTNET, photos, folder),
    ]


def _subject(example: Example, inputs: Mapping[str, Mapping[str, Array]], folder: Path) -> Subject:
    """Pack an example, and run the module itself on every input for what is right."""
    sized = attrs.evolve(example, batch_sizes=_BATCH_SIZES)
    return Subject(
        example=sized,
        archive=sized.pack(folder / example.name),
        captions=tuple(inputs),
        inputs=tuple(inputs.values()),
        expected=tuple(sized.run(sample) for sample in inputs.values()),
    )


def _show_profiles(models: Sequence[ModelStatus]) -> None:
    for model in models:
        planned = ", ".join(f"{e.batch_size}: {format_ms(e.estimate_ns)}" for e in model.profile)
        people.print(f"   {model.spec.name}, planned time by batch size: {planned}")


async def _send(
    client: Client, subjects: Sequence[Subject], models: Sequence[ModelStatus], seconds: float
) -> tuple[list[Sent], int]:
    single_ns = [model.profile[0].estimate_ns for model in models]
    mean_ns = sum(single_ns) / len(single_ns)
    rate_rps = _LOAD_SHARE * SECOND / mean_ns
    slo_ns = max(_SLO_MIN_NS, -(-_SLO_FACTOR * max(single_ns) // (50 * MS)) * 50 * MS)
    plan = make_plan(subjects, rate_rps, seconds)
    people.print(
        f"3. sending {len(plan)} requests, {rate_rps:.0f}/s at random instants, each to be "
        f"answered within {format_ms(slo_ns)}:\n"
        f"   sentences to {subjects[0].example.name}, photographs to {subjects[1].example.name}"
    )
    with Progress(console=people, transient=True, disable=not people.is_terminal) as progress:
        bar = progress.add_task("   sending", total=len(plan))
        sent = await run_open_loop(
            client,
            plan,
            slo_ns=slo_ns,
            keep_results=True,
            progress=lambda done: progress.update(bar, completed=done),
        )
    return sent, slo_ns


def make_plan(subjects: Sequence[Subject], rate_rps: float, seconds: float) -> list[Planned]:
    """Draw the demo's requests: the same on every machine but for the rate."""
    picks = random.Random(1)
    plan = []
    for arrival in draw(
        Poisson(rate_rps=rate_rps),
        Uniform(),
        models=len(subjects),
        duration_ns=round(seconds * SECOND),
        seed=1,
    ):
        subject = subjects[arrival.model]
        tag = picks.randrange(len(subject.inputs))
        plan.append(
            Planned(
                at_ns=arrival.instant_ns,
                model=subject.example.name,
                inputs=subject.inputs[tag],
                tag=tag,
            )
        )
    return plan


def count_wrong(subjects: Sequence[Subject], sent: Sequence[Sent]) -> int:
    """Count outputs that differ from the model's own by more than its stated tolerance."""
    by_name = {subject.example.name: subject for subject in subjects}
    wrong = 0
    for entry in sent:
        if entry.result is None or entry.result.outputs is None:
            continue
        subject = by_name[entry.planned.model]
        expected = subject.expected[entry.planned.tag]
        tolerance = subject.archive.manifest.tolerance
        for name, right in expected.items():
            allowed = tolerance * float(np.abs(right).max())
            if not np.allclose(entry.result.outputs[name], right, rtol=0, atol=allowed):
                wrong += 1
                break
    return wrong


async def _report(
    client: Client,
    cluster: RunningCluster,
    subjects: Sequence[Subject],
    sent: Sequence[Sent],
    seconds: float,
) -> dict[str, Any]:
    await trio.sleep(0.1)  # the last settlements reach the controller
    ledger = (await client.status()).ledger
    report = counts(sent) | times(sent, seconds) | {"wrong": count_wrong(subjects, sent)}
    report["broken_by_cause"] = dict(ledger.broken)
    report["processes"] = len(cluster.children)
    report["models"] = {}
    for name, group in by_model(sent).items():
        total, measured = counts(group), times(group, seconds)
        report["models"][name] = total | {
            "latency_ms": measured["latency_ms"],
            "prediction_error_ms": measured["prediction_error_ms"],
        }
    return report


def _show_outputs(subjects: Sequence[Subject], sent: Sequence[Sent]) -> None:
    """Say in words what some of the outputs mean."""
    came: dict[tuple[str, int], Mapping[str, Array]] = {
        (entry.planned.model, entry.planned.tag): entry.result.outputs
        for entry in sent
        if entry.result is not None and entry.result.outputs is not None
    }
    texts, photos = subjects
    vectors = {
        text: next(iter(came[texts.example.name, tag].values()))
        for tag, text in enumerate(texts.captions)
        if (texts.example.name, tag) in came
    }
    if len(vectors) > 1:
        first, *others = vectors
        nearest = max(others, key=lambda text: float(vectors[text] @ vectors[first]))
        people.print(f'nearest in meaning to "{first}": "{nearest}"')
    for tag, name in enumerate(photos.captions):
        if (photos.example.name, tag) in came:
            best = int(np.argmax(next(iter(came[photos.example.name, tag].values()))))
            label = efficientnet.LABELS.get(best, f"class {best} of ImageNet")
            people.print(f"the photograph {name} shows: {label}")


def _conclude(report: dict[str, Any]) -> None:
    refused = sum(report["refused"].values())
    failed = sum(report["failed"].values())
    people.print(
        f"{report['requests']} requests: {report['kept']} answered in time, {refused} refused, "
        f"{report['broken']} promises broken, {failed} failed"
    )
    if report["broken"]:
        causes = ", ".join(f"{cause} {n}" for cause, n in report["broken_by_cause"].items())
        people.print(f"  the controller's causes of broken promises: {causes or 'none'}")
    if report["answers"] == report["requests"]:
        people.print("every request got exactly one answer")
    else:
        people.print(f"{report['requests'] - report['answers']} requests got no answer")
    if report["wrong"]:
        people.print(f"{report['wrong']} outputs differ from torch run directly")
    else:
        people.print("every output equals that of torch run directly, within the stated tolerance")
    people.print("next: `tools/devcluster up` keeps a cluster running; docs/deployment.md goes on")
