"""``tools/bench_peers``: cw side by side with what people serve models with today.

Each server gets the same models, weights, open-loop arrivals and SLOs, on one core; the load
generator has another. Servers are installed when they are first asked for, each in an environment
of its own outside of the clone. What is measured is kept, cell by cell: the next call goes on where
this one ended. The machine should have nothing else to do.

Examples:
  tools/bench_peers                                    everything; about an hour and a half
  tools/bench_peers --quick --peers cw,triton          is anything to be seen at all?
  tools/bench_peers --cases 8 --loads 0.9,2 --seconds 10
  tools/bench_peers --show --markdown                  only print what has been measured
"""

import argparse
import fnmatch
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import trio

from cw.benchmarks.peers.cases import CASES, LOADS, SLOS_NS
from cw.benchmarks.peers.peers import PEERS
from cw.benchmarks.peers.plots import draw_plots
from cw.benchmarks.peers.results import Results
from cw.benchmarks.peers.running import Conditions, make_groups, run_groups
from cw.benchmarks.peers.tables import show_tables, tables_as_markdown
from cw.cli.common import duration_ns, people, positive
from cw.errors import ConfigError

T = TypeVar("T")

_RESULTS: Final = Path(".cw") / "peers" / "results.json"
_QUICK_SECONDS: Final = 3.0
_QUICK_LOADS: Final = (0.3, 1.2)


def main(words: list[str]) -> int:
    """Measure what is missing and print all; return 0, whatever was found."""
    args = _parser().parse_args(words)
    try:
        results = Results.read(args.results)
        if not args.show:
            conditions = Conditions(
                seconds=_QUICK_SECONDS if args.quick else args.seconds,
                seed=args.seed,
                stop_after_ns=args.stop_after,
            )
            loads = _QUICK_LOADS if args.quick else args.loads
            groups = make_groups(args.peers, args.cases, loads, args.slos)
            wanted = [
                group.only(
                    lambda key: (
                        fnmatch.fnmatch(key, args.only) and (args.again or key not in results.cells)
                    )
                )
                for group in groups
            ]
            trio.run(run_groups, [group for group in wanted if group.cells], results, conditions)
    except ConfigError as problem:
        people.print(f"error: {problem}")
        return 1
    if args.markdown:
        print(tables_as_markdown(results))
    elif args.json:
        print(
            json.dumps(
                {
                    "machine": results.machine,
                    "bare": results.bare,
                    "cells": results.cells,
                    "failures": results.failures,
                }
            )
        )
    else:
        show_tables(results, people)
    if args.plots is not None:
        for path in draw_plots(results, args.plots):
            people.print(f"drawn: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names, cases = ", ".join(PEERS), {case.name: case for case in CASES}
    parser.add_argument(
        "--peers",
        type=_list_of(lambda word: PEERS[word]),
        default=list(PEERS.values()),
        metavar="NAME,...",
        help=f"which servers, of {names}; default all",
    )
    parser.add_argument(
        "--cases",
        type=_list_of(lambda word: cases[word]),
        default=list(CASES),
        metavar="CASE,...",
        help=f"how many models: {', '.join(cases)} (64-in-16: in room for 16); default all",
    )
    parser.add_argument(
        "--loads",
        type=_list_of(float),
        default=list(LOADS),
        metavar="X,...",
        help="by what the bare loop does one at a time; default 0.3,0.6,0.9,1.2,2",
    )
    parser.add_argument(
        "--slos",
        type=_list_of(duration_ns),
        default=list(SLOS_NS),
        metavar="SLO,...",
        help="what servers are told that can be told; default 25ms,50ms,100ms",
    )
    parser.add_argument("--seconds", type=positive, default=20.0, help="of each cell, default 20")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument("--quick", action="store_true", help="two loads, 3 s each")
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="cells by key, e.g. 'triton/8/*/50ms'"
    )
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument(
        "--stop-after",
        type=duration_ns,
        metavar="60s",
        help="begin no cell after that: for machines that must be shared",
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help=f"default {_RESULTS}")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--markdown", action="store_true", help="tables as docs/benchmarks.md has")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw PNG and SVG there")
    return parser


def _list_of(read: Callable[[str], T]) -> Callable[[str], list[T]]:
    def split(text: str) -> list[T]:
        try:
            return [read(word) for word in text.split(",")]
        except KeyError as exc:
            raise argparse.ArgumentTypeError(f"there is no {exc}") from exc

    return split
