"""The ``cw`` command: finds the subcommand, runs it, turns its errors into words and a status.

Status 0: done; 1: it failed, for a reason that is printed; 2: the command line is wrong; 130:
interrupted. With ``--json`` the result is one JSON object on stdout and everything else on stderr.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import cw
from cw.cli.advice import explain
from cw.errors import CwError
from cw.rpc.memory_tuning import tune_malloc

COMMANDS: Final = {
    "model": "pack, add, list, show and remove models",
    "infer": "ask for one inference",
    "bench": "send an open-loop load and report what became of it",
    "simulate": "run the scheduler against a seeded world in virtual time; the paper's figures",
    "plan": "how many GPUs does a trace need, and what breaks first?",
    "tenant": "add tenants, set quotas, make and revoke keys",
    "catalog": "back the catalog of tenants up, and restore it",
    "status": "show the cluster: executors, models, what became of requests",
    "trace": "export what executors did as a trace, planned beside actual",
    "profile": "show how long a model's batches took, and how good the estimates were",
    "doctor": "check machine, versions, GPU and cluster, and say how to mend what is wrong",
    "devcluster": "run a whole cluster on this machine",
    "controller": "run a controller (started by a supervisor)",
    "gateway": "run a gateway (started by a supervisor)",
    "executor": "run an executor (started by a supervisor)",
    "solo": "run all three as one process (started by a supervisor)",
}
"""Name: help. Each is a module of this package with `add_arguments(parser)` and `run(args)`;
only the one that is asked for is imported, so that `cw status` does not wait for torch."""


def main(argv: Sequence[str] | None = None, *, prog: str = "cw") -> int:
    """Run the command that `argv` (by default the process's) names; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve deep neural networks with predictable latency.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"cw {cw.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    named = parser.parse_args(words[:1])
    with _interrupts_end_at_once():
        module = importlib.import_module(f"cw.cli.{named.command}")
    command = argparse.ArgumentParser(
        prog=f"{prog} {named.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command)
    args = command.parse_args(words[1:])
    tune_malloc()  # every process that moves tensors: see there
    try:
        return int(module.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`cw status | head`): nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CwError, OSError, BaseExceptionGroup) as exc:
        return _explain(named.command, exc)


@contextmanager
def _interrupts_end_at_once() -> Iterator[None]:
    """Have Ctrl-C end the process without a word while a command's modules are imported.

    That takes most of the first half second, in which a person finds out what was mistyped, and a
    `KeyboardInterrupt` could come out of any line of any library.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # whoever runs us wants interrupts ignored (nohup), or handles them
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _explain(command: str, raised: BaseException) -> int:
    """Print what a person can act on; let a bug through with its whole traceback."""
    leaves = _leaves(raised)
    if any(isinstance(exc, KeyboardInterrupt) for exc in leaves):
        return 130
    if not all(isinstance(exc, CwError | OSError) for exc in leaves):
        raise raised
    words = (explain(exc) if isinstance(exc, OSError) else str(exc) for exc in leaves)
    for text in dict.fromkeys(words):
        print(f"cw {command}: {text}", file=sys.stderr, flush=True)
    return 1


def _leaves(raised: BaseException) -> list[BaseException]:
    """List the errors in a group of groups."""
    if not isinstance(raised, BaseExceptionGroup):
        return [raised]
    return [leaf for exc in raised.exceptions for leaf in _leaves(exc)]
