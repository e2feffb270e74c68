"""cw's own programs in a bare loop, for the bound: ``python -m`` this, ARCHIVE, KERNELS."""

import json
import sys
from pathlib import Path
from typing import Final

from cw.benchmarks.peers.cases import BATCH_SIZES
from cw.benchmarks.report import quantile
from cw.devices.cpu.bare import BareModel
from cw.models.archive import verify_archive

_RUNS: Final = 150


def main(archive: Path, kernels: str) -> None:
    """Print one JSON object: batch size -> median duration (ns).

    Args:
        archive: Of a model.
        kernels: ``exported`` or ``rewritten``; see `cw.config.ExecutorSettings`.
    """
    model = verify_archive(archive)
    bare = BareModel.open(
        model.manifest.to_spec(),
        model.program_path,
        model.weights_path,
        as_exported=kernels == "exported",
    )
    medians_ns = {size: quantile(bare.durations_ns(size, runs=_RUNS), 0.5) for size in BATCH_SIZES}
    bare.close()
    print(json.dumps(medians_ns))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
