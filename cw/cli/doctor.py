"""Check a deployment for what stands between it and predictable latency, and say how to mend it.

It looks at this machine, the versions installed, the NVIDIA cards, and a running cluster: one named
by --address or CW_CONNECT, or the one that 'tools/devcluster up' runs in this checkout. It needs no
privilege and changes nothing. Status 0: no problem; 1: there is one (warnings are none).

Examples:
  cw doctor
  cw doctor --address tcp:10.0.0.7:7000
  cw doctor --json | jq '.groups[].findings[] | select(.verdict != "ok")'
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from rich.text import Text

from cw.cli.common import (
    CLUSTER_FILE,
    add_connection,
    as_json,
    connected,
    find_cluster,
    print_json,
    results,
)
from cw.cli.record_files import add_folder, cluster_folder
from cw.doctor.examination import Patient, examine
from cw.doctor.finding import Finding, Group, Verdict, worst
from cw.errors import ConfigError

_STYLES: Final = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}
_CHECK_WIDTH: Final = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_connection(parser)
    parser.add_argument(
        "--address", dest="connect", metavar="ADDRESS", help="the same as --connect"
    )
    add_folder(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; status 1 when there is a problem."""
    groups = trio.run(examine, choose_patient(args))
    if args.json:
        print_json(to_json(groups))
    else:
        show(groups)
    return 1 if worst(groups) is Verdict.PROBLEM else 0


def choose_patient(args: argparse.Namespace) -> Patient:
    """Say which cluster to ask, and whether its folder is here.

    Raises:
        ConfigError: A folder was named that is none.
    """
    try:
        folder = cluster_folder(args.folder)
    except ConfigError:
        if args.folder is not None:
            raise
        folder = None
    started = _started(folder)
    if args.folder is not None and not args.connect and started:
        args.connect = started["gateways"][0]
    try:
        endpoint = find_cluster(args)
    except ConfigError:  # that there is none is no problem of this machine
        return Patient(folder=folder or Path.cwd())
    is_its_folder = args.folder is not None or endpoint.address in started.get("gateways", ())
    return Patient(
        folder=folder or Path.cwd(),
        address=endpoint.address,
        connect=partial(connected, endpoint, args.key),
        has_records=folder is not None and is_its_folder,
        http=tuple(started.get("http", ())) if is_its_folder else (),
        up_since_s=started.get("up_since_s") if is_its_folder else None,
        executors_asked=started.get("executors") if is_its_folder else None,
    )


def _started(folder: Path | None) -> dict[str, Any]:
    """Read what `up` wrote of the cluster that runs in a folder, and when; empty if none does."""
    if folder is None:
        return {}
    path = folder / CLUSTER_FILE
    try:
        return {**json.loads(path.read_text()), "up_since_s": path.stat().st_mtime}
    except (OSError, ValueError):  # it is down, or has just been starting
        return {}


def to_json(groups: Sequence[Group]) -> dict[str, Any]:
    """Give the documented keys: verdict, groups."""
    return {"verdict": worst(groups).value, "groups": as_json(groups)}


def show(groups: Sequence[Group]) -> None:
    """Print the findings for people: a line each, and what to do below those that ask for it."""
    for group in groups:
        results.print(Text(group.title, style="bold"))
        for finding in group.findings:
            results.print(_lines(finding), soft_wrap=True)
    counts = [
        sum(finding.verdict is verdict for group in groups for finding in group.findings)
        for verdict in (Verdict.PROBLEM, Verdict.WARNING)
    ]
    results.print(f"problems: {counts[0]}, warnings: {counts[1]}")


def _lines(finding: Finding) -> Text:
    width = max(len(verdict.value) for verdict in Verdict)
    text = Text("  ")
    text.append(f"{finding.verdict.value:{width}}", style=_STYLES[finding.verdict])
    text.append(f"  {finding.check:{_CHECK_WIDTH}} {finding.found}")
    if finding.verdict is not Verdict.OK:
        margin = " " * (width + 4)
        text.append(f"\n{margin}expected: {finding.expected}")
        text.append(f"\n{margin}why:      {finding.why}")
        text.append(f"\n{margin}mend:     ")
        text.append(finding.mend, style="bold")
    return text
