"""What every peer computes: the same networks, eagerly, on one thread; each run is recorded.

Runs inside a peer's own environment. It must not import cw.
"""

# mypy: disable-error-code="import-not-found, no-any-return, attr-defined"
# mypy: allow-subclassing-any, allow-untyped-decorators

import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from served import RUN_RECORD, Served


class Network:
    """One model with its weights in memory."""

    def __init__(self, module: torch.nn.Module, served: Served, runs: int) -> None:
        self._module = module
        self._shape = served.input_shape
        self._runs = runs

    @classmethod
    def open(cls, name: str, served: Served) -> Self:
        """Read a model's weights into fresh memory: 6 ms for 45 MB."""
        torch.set_num_threads(1)
        with torch.device("meta"):  # drawing random weights first takes ten times as long
            module = _network_class(served)().eval()
        stored = load_file(str(Path(served.models_path) / name / "weights.safetensors"))
        own = {key: value.clone() for key, value in stored.items() if not key.startswith("__pad")}
        missing, unexpected = module.load_state_dict(own, strict=False, assign=True)
        # Counts of training steps, which inference does not read, are not in the file.
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise ValueError(f"{name}: weights lack {missing}, and have {unexpected} beyond")
        runs = os.open(served.runs_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        return cls(module, served, runs)

    def compute(self, rows: Sequence[bytes]) -> list[bytes]:
        """Compute one batch.

        Args:
            rows: Per request, one sample: float32, little-endian.

        Returns:
            Per request, its output: float32.
        """
        begin_ns = time.monotonic_ns()
        flat = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.float32)
        with torch.inference_mode():
            outputs = self._module(flat.view(len(rows), *self._shape))
        answers = [output.numpy().tobytes() for output in outputs]
        duration_ns = time.monotonic_ns() - begin_ns
        os.write(self._runs, RUN_RECORD.pack(begin_ns, duration_ns, len(rows)))
        return answers

    def close(self) -> None:
        """Give the file back; the weights go with the object."""
        os.close(self._runs)


def compute_mixed(networks: dict[str, Network], asked: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """Compute a batch of requests for several models, one model after the other.

    Args:
        networks: By name.
        asked: Per request, the model's name and one sample.
    """
    places: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(asked):
        places.setdefault(name, []).append(place)
    answers = [b""] * len(asked)
    for name, own in places.items():
        computed = networks[name].compute([asked[place][1] for place in own])
        for place, answer in zip(own, computed, strict=True):
            answers[place] = answer
    return answers


def _network_class(served: Served) -> Any:
    spec = importlib.util.spec_from_file_location("served_network", served.network_path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, served.network_class)
