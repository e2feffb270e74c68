"""What has to be there before a case's servers: packed models, images, the profile, right answers.

Models and answers are kept in the cache folder, since they are the same in every run.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import numpy as np
import trio

from cw.benchmarks.peers.bare import bare_loop, own_kernels
from cw.benchmarks.peers.cases import BATCH_SIZES, Case
from cw.benchmarks.peers.install import cache_folder
from cw.benchmarks.peers.measuring import Samples
from cw.benchmarks.peers.peers import PEERS
from cw.benchmarks.peers.results import Results
from cw.benchmarks.peers.subjects import Network, Start
from cw.client import Array
from cw.models.archive import read_manifest

_INPUTS_PER_MODEL: Final = 4
_IMAGES_SEED: Final = 1
_PACK: Final = (
    "import sys, pathlib, cw.benchmarks.models as m; "
    f"m.resnets(pathlib.Path(sys.argv[1]), int(sys.argv[2]), batch_sizes={BATCH_SIZES})"
)


@attrs.frozen(kw_only=True)
class Ground:
    """What a case stands on.

    Attributes:
        network: Its models.
        samples: Images and right answers.
        rate_rps: What the bare loop does one at a time: load 1.
    """

    network: Network
    samples: Samples
    rate_rps: float


async def lay_ground(
    case: Case, results: Results, *, core: int, folder: Path, say: Callable[[str], object]
) -> Ground:
    """Pack what is not packed, measure what is not measured.

    Args:
        case: Which.
        results: Holds the profile, or is given it.
        core: The servers'.
        folder: For files on the way.
        say: Told what takes long.

    Raises:
        ServerFailed: The bare loop could not run.
    """
    network = await trio.to_thread.run_sync(lambda: _packed(case.models, say))
    images = _images(network)
    answers_path = network.folder / f"answers-{case.models}.npy"
    if case.name not in results.bare or not answers_path.exists():
        say(f"{case.title}: the bare loop")
        start = Start(
            peer=PEERS["cw"], case=case, slo_ns=0, network=network, folder=folder, core=core
        )
        plain, answers = await bare_loop(start.served(), images, core=core, folder=folder)
        archive = network.folder / network.names[0]
        own = {
            kernels: await own_kernels(archive, core=core, kernels=kernels)
            for kernels in ("exported", "rewritten")
        }
        np.save(answers_path, answers)
        fastest = {size: min(ns, own["exported"][size]) for size, ns in plain.items()}
        if case.name not in results.bare:  # else it stays the unit of what has been measured
            profile = {"torch": plain, "exported": fastest, "rewritten": own["rewritten"]}
            results.set_bare(case, profile)
    single_ns = results.durations(case, "torch")[1]
    samples = Samples(network.names, images, np.load(answers_path, allow_pickle=False))
    return Ground(network=network, samples=samples, rate_rps=1e9 / single_ns)


def _packed(count: int, say: Callable[[str], object]) -> Network:
    """Find or make the archives; torch stays out of this process, which is to send on time."""
    folder = cache_folder() / "models"
    names = ["resnet18", *(f"resnet18-{index}" for index in range(1, count))]
    if not all((folder / name / "model.toml").exists() for name in names):
        say(f"packing {count} models in {folder}; once only")
        scratch = folder.with_suffix(".new")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        command = [sys.executable, "-c", _PACK, str(scratch), str(count)]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
        shutil.rmtree(folder, ignore_errors=True)  # fewer of them, or another's answers
        scratch.rename(folder)
    return Network(folder=folder, specs=[read_manifest(folder / name).to_spec() for name in names])


def _images(network: Network) -> Array:
    generator = np.random.default_rng(_IMAGES_SEED)
    shape = (len(network.specs), _INPUTS_PER_MODEL, *network.specs[0].inputs[0].shape)
    return generator.standard_normal(shape).astype(np.float32)
