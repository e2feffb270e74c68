"""The case's profile, measured on the servers' core just before them: the unit and the bound.

The bare loop runs as a process of its own (`servers/bare.py`), with the networks as the peers run
them. cw runs the same networks as exported graphs, which differ by some Python around the same
kernels; the bound takes the faster of the two at each batch size, so that it stays a bound.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import trio

from cw.benchmarks.peers import launching
from cw.benchmarks.peers.cases import BATCH_SIZES, POPULARITY_EXPONENT
from cw.benchmarks.peers.launching import Setup
from cw.benchmarks.peers.processes import ServerFailed
from cw.benchmarks.peers.servers.served import Served
from cw.client import Array

_SECONDS: Final = 1.0
"""Of each batch size."""
_ROOT: Final = Path(__file__).parents[3]
_BARE: Final = Path(__file__).parent / "servers" / "bare.py"


async def bare_loop(
    served: Served, images: Array, *, core: int, folder: Path
) -> tuple[dict[int, int], Array]:
    """Measure the bare loop; return batch size -> median duration (ns), and the right answers.

    Args:
        served: The networks; its file lies in `folder`.
        images: ``float32[models, inputs, *shape]``.
        core: Where to run.
        folder: For files on the way.

    Raises:
        ServerFailed: It could not run.
    """
    np.save(folder / "images.npy", images)
    setup = Setup(served=served, folder=folder, environment=Path(sys.prefix))
    files = [str(folder / name) for name in ("images.npy", "answers.npy")]
    options = [str(POPULARITY_EXPONENT), str(_SECONDS), *map(str, BATCH_SIZES)]
    words = [str(_BARE), *files, *options]
    durations = _durations(await _run(core, words, launching.variables_of(setup)))
    return durations, np.load(folder / "answers.npy", allow_pickle=False)


async def own_kernels(archive: Path, *, core: int, kernels: str) -> dict[int, int]:
    """Measure cw's own programs likewise (`own_kernels.py`), one model.

    Raises:
        ServerFailed: It could not run.
    """
    module = "cw.benchmarks.peers.own_kernels"
    words = await _run(core, ["-m", module, str(archive), kernels], {"PYTHONPATH": str(_ROOT)})
    return _durations(words)


async def _run(core: int, words: Sequence[str], variables: Mapping[str, str]) -> str:
    done = await trio.run_process(
        ["taskset", "--cpu-list", str(core), sys.executable, *words],
        env={**os.environ, **variables},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    if done.returncode:
        raise ServerFailed(f"the bare loop failed: {done.stderr.decode()[-500:]}")
    return done.stdout.decode()


def _durations(words: str) -> dict[int, int]:
    return {int(size): int(ns) for size, ns in json.loads(words).items()}
