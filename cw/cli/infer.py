"""Ask for one inference.

Examples:
  cw infer resnet --input image.npy --slo 100ms
  cw infer minilm --input ids=ids.npy --input mask=mask.npy --slo 50ms --output out.npz
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from cw.cli.common import (
    add_connection,
    add_slo,
    as_json,
    connected,
    find_cluster,
    people,
    print_json,
    run_async,
    slo_of,
)
from cw.client import Array, Result
from cw.errors import ConfigError
from cw.messages import ModelSpec
from cw.units import format_ms

_VALUES_SHOWN = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("model", metavar="NAME")
    parser.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="[TENSOR=]FILE.npy",
        help="one sample of one input; the name may be left out where there is one input",
    )
    add_slo(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.npz", help="keep the outputs")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; status 0 only for an output."""
    result = run_async(_ask, args)
    if args.output is not None and result.outputs is not None:
        np.savez(args.output, allow_pickle=False, **result.outputs)
    if args.json:
        print_json(_to_json(result))
    else:
        _show(result)
    return 0 if result.outputs is not None else 1


async def _ask(args: argparse.Namespace) -> Result:
    async with connected(find_cluster(args), args.key) as client:
        spec = (await client.model(args.model)).spec
        return await client.infer(args.model, read_inputs(args.input, spec), slo=slo_of(args))


def read_inputs(words: list[str], spec: ModelSpec) -> dict[str, Array]:
    """Read the files of ``--input``.

    Raises:
        ConfigError: A file can't be read, or it is not clear which input it is for.
    """
    inputs: dict[str, Array] = {}
    for word in words:
        name, _, path = word.rpartition("=")
        if not name:
            if len(spec.inputs) != 1 or len(words) != 1:
                names = ", ".join(tensor.name for tensor in spec.inputs)
                raise ConfigError(
                    f"{spec.name!r} has the inputs {names}: say which one {path} is, "
                    f"e.g. --input {spec.inputs[0].name}={path}"
                )
            name = spec.inputs[0].name
        try:
            inputs[name] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as exc:
            raise ConfigError(f"expected a .npy file with numbers at {path}: {exc}") from exc
    return inputs


def _to_json(result: Result) -> dict[str, Any]:
    return {
        "outputs": None
        if result.outputs is None
        else {name: array.tolist() for name, array in result.outputs.items()},
        "promised": result.promised,
        "refusal": as_json(result.refusal),
        "failure": as_json(result.failure),
        "timing": as_json(result.timing),
    }


def _show(result: Result) -> None:
    timing = result.timing
    if result.outputs is not None:
        for name, array in result.outputs.items():
            values = ", ".join(f"{value:.4g}" for value in array.flat[:_VALUES_SHOWN])
            more = ", ..." if array.size > _VALUES_SHOWN else ""
            print(f"{name} {array.dtype}{list(array.shape)}: {values}{more}")
        people.print(
            f"answered in {format_ms(timing.total_ns)} "
            f"(predicted at most {format_ms(timing.predicted_ns)}): "
            f"{format_ms(timing.device_ns)} on the device in a batch of {timing.batch_size}, "
            f"{format_ms(timing.lane_busy_ns)} waiting for other work"
        )
    elif result.refusal is not None:
        refusal = result.refusal
        earliest = refusal.earliest_finish_ns
        hint = "" if earliest is None else f"; earliest {format_ms(earliest)} after the call"
        people.print(f"refused ({refusal.reason.value}): {refusal.message}{hint}")
    elif result.failure is not None:
        broken = "promise broken" if result.promised else "failed"
        people.print(f"{broken} ({result.failure.kind.value}): {result.failure.message}")
