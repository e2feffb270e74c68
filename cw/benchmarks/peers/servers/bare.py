"""The bare loop: the networks called one after the other on one core, with no server around them.

It gives the unit of load (what it does one request at a time), the durations that the bound is made
of, and the right answers::

    python bare.py IMAGES.npy ANSWERS.npy POPULARITY_EXPONENT SECONDS BATCH_SIZE...
"""

# mypy: disable-error-code="import-not-found, no-any-return"

import json
import random
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from statistics import median
from typing import Any

import numpy as np
from network import Network
from served import Served

_WARM_UPS = 5
_RUNS_MIN = 40


def main(words: Sequence[str]) -> None:
    """Measure, and print one JSON object: batch size -> median duration (ns)."""
    images_path, answers_path, exponent, seconds, *sizes = words
    served = Served.read()
    images = np.load(images_path, allow_pickle=False)  # float32[models, inputs, *shape]
    networks = [Network.open(name, served) for name in served.names]
    answers = [
        [np.frombuffer(network.compute([image.tobytes()])[0], np.float32) for image in own]
        for network, own in zip(networks, images, strict=True)
    ]
    np.save(answers_path, np.array(answers))
    bounds = list(accumulate(rank ** -float(exponent) for rank in range(1, len(networks) + 1)))
    durations = {
        size: _median_ns(networks, images, bounds, int(size), float(seconds)) for size in sizes
    }
    print(json.dumps(durations))


def _median_ns(
    networks: Sequence[Any], images: Any, bounds: Sequence[float], size: int, seconds: float
) -> int:
    """Call models in the order in which requests would ask for them."""
    drawn = random.Random(size)
    durations_ns: list[int] = []
    while len(durations_ns) < _RUNS_MIN + _WARM_UPS or sum(durations_ns) < seconds * 1e9:
        (model,) = drawn.choices(range(len(networks)), cum_weights=bounds)
        rows = [images[model][place % images.shape[1]].tobytes() for place in range(size)]
        begin_ns = time.perf_counter_ns()
        networks[model].compute(rows)
        durations_ns.append(time.perf_counter_ns() - begin_ns)
    return round(median(durations_ns[_WARM_UPS:]))


if __name__ == "__main__":
    main(sys.argv[1:])
