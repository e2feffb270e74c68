"""Show the cluster: its executors, its models, and what became of requests so far."""

import argparse
from typing import Any

from rich.table import Table

from cw.cli.common import (
    add_connection,
    as_json,
    connected,
    find_cluster,
    print_json,
    results,
    run_async,
)
from cw.messages import ClusterStatus, ExecutorStatus, ModelStatus
from cw.units import PAGE_BYTES, format_bytes, format_ms

_MODELS_SHOWN = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    status = run_async(_ask, args)
    if args.json:
        print_json(to_json(status))
    else:
        show(status)
    return 0


async def _ask(args: argparse.Namespace) -> ClusterStatus:
    async with connected(find_cluster(args), args.key) as client:
        return await client.status()


def to_json(status: ClusterStatus) -> dict[str, Any]:
    """Give the documented keys: executors, models, queued, epoch, cells, ledger."""
    ledger = status.ledger
    return {
        "executors": [
            {
                "id": executor.executor_id,
                "name": executor.name,
                "state": executor.state,
                "device": executor.device,
                "pages": executor.pages_total,
                "pages_free": executor.pages_free,
                "resident": list(executor.resident),
                "utilisation": round(executor.utilisation, 4),
            }
            for executor in _by_name(status)
        ],
        "models": [model_json(model) for model in status.models],
        "queued": status.queued,
        "epoch": status.epoch,
        "cells": [
            {
                "cell": cell.cell,
                "epoch": cell.epoch,
                "executors": list(cell.executors),
                "queued": cell.queued,
                "requests": cell.ledger.requests,
                "kept": cell.ledger.kept,
            }
            for cell in status.cells
        ],
        "ledger": {
            "requests": ledger.requests,
            "kept": ledger.kept,
            "refused": dict(ledger.refused),
            "broken": dict(ledger.broken),
            "failed": dict(ledger.failed),
        },
    }


def model_json(model: ModelStatus) -> dict[str, Any]:
    """Describe a model in JSON."""
    return {
        "name": model.spec.name,
        "version": model.spec.version,
        "state": model.state.value,
        "detail": model.detail,
        "image_bytes": model.spec.image_bytes,
        "pages": model.spec.pages,
        "inputs": as_json(model.spec.inputs),
        "outputs": as_json(model.spec.outputs),
        "batch_sizes": list(model.spec.batch_sizes),
        "load_ms": round(model.load_ns / 1e6, 3),
        "profile": as_json(model.profile),
    }


def show(status: ClusterStatus) -> None:
    """Print the cluster for people."""
    executors = Table(title=f"executors (epoch {status.epoch})", title_justify="left")
    for heading in ("id", "name", "state", "device", "pages free", "busy", "resident"):
        executors.add_column(heading)
    for executor in _by_name(status):
        executors.add_row(
            str(executor.executor_id),
            executor.name,
            executor.state,
            executor.device,
            f"{executor.pages_free} of {executor.pages_total} "
            f"({format_bytes(executor.pages_total * PAGE_BYTES)})",
            f"{executor.utilisation:.0%}",
            _some(executor.resident, 4),
        )
    if status.cells:
        results.print(_cells_table(status))
    results.print(executors)
    results.print(models_table(status.models))
    ledger = status.ledger
    results.print(
        f"requests {ledger.requests}: kept {ledger.kept}, "
        f"refused {_reasons(ledger.refused)}, broken {_reasons(ledger.broken)}, "
        f"failed {_reasons(ledger.failed)}; waiting now: {status.queued}"
    )


def _cells_table(status: ClusterStatus) -> Table:
    table = Table(title="cells", title_justify="left")
    for heading in ("cell", "controller", "requests", "kept", "waiting", "executors"):
        table.add_column(heading)
    for cell in status.cells:
        table.add_row(
            str(cell.cell),
            f"epoch {cell.epoch}" if cell.epoch else "can't be reached",
            str(cell.ledger.requests),
            str(cell.ledger.kept),
            str(cell.queued),
            _some(cell.executors, 4),
        )
    return table


def models_table(models: tuple[ModelStatus, ...]) -> Table:
    """Make the table of models."""
    table = Table(title="models", title_justify="left")
    for heading in ("name", "version", "state", "weights", "LOAD", "planned per batch size"):
        table.add_column(heading)
    for model in sorted(models, key=lambda model: (model.spec.name, model.spec.version))[
        :_MODELS_SHOWN
    ]:
        state = model.state.value
        if model.steps_done < model.steps_total and model.detail == "":
            state += f" {model.steps_done}/{model.steps_total}"
        table.add_row(
            model.spec.name,
            f"v{model.spec.version}",
            f"{state} {model.detail}".strip(),
            format_bytes(model.spec.image_bytes),
            format_ms(model.load_ns),
            ", ".join(f"{e.batch_size}: {format_ms(e.estimate_ns)}" for e in model.profile),
        )
    if len(models) > _MODELS_SHOWN:
        table.caption = f"and {len(models) - _MODELS_SHOWN} more (--json has them all)"
    return table


def _by_name(status: ClusterStatus) -> list[ExecutorStatus]:
    """List the executors; their ids are in the order in which they came."""
    return sorted(status.executors, key=lambda executor: executor.name)


def _some(names: tuple[str, ...], count: int) -> str:
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown} and {len(names) - count} more"


def _reasons(pairs: tuple[tuple[str, int], ...]) -> str:
    if not pairs:
        return "0"
    total = sum(count for _, count in pairs)
    return f"{total} ({', '.join(f'{name} {count}' for name, count in pairs)})"
