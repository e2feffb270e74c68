"""What a peer is asked to serve, as the benchmark tells it; the standard library only."""

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Self

SERVED_VARIABLE = "CW_PEERS_SERVED"
"""Names the file that `Served.read` reads."""
RUN_RECORD = struct.Struct("<qqq")
"""One run: begin and duration (ns, CLOCK_MONOTONIC, which all processes share), rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """What a peer is to serve, as the benchmark wrote it down.

    Attributes:
        network_path: A Python file that needs torch only.
        network_class: The module's class in it, made without arguments.
        models_path: Holds ``NAME/weights.safetensors`` for each name.
        names: The models.
        input_shape: Of one sample, float32.
        batch_max: Rows in a batch at most.
        batch_wait_ms: How long a batch may wait to fill.
        slo_ms: What a peer that can know of a deadline is told.
        room: So many models may be resident at once; None: all.
        port: To listen on, on 127.0.0.1.
        other_port: Another free one, for peers that insist.
        runs_path: Where runs are recorded.
    """

    network_path: str
    network_class: str
    models_path: str
    names: tuple[str, ...]
    input_shape: tuple[int, ...]
    batch_max: int
    batch_wait_ms: float
    slo_ms: float
    room: int | None
    port: int
    other_port: int
    runs_path: str

    @classmethod
    def read(cls) -> Self:
        """Read the file that the environment names."""
        raw = json.loads(Path(os.environ[SERVED_VARIABLE]).read_text())
        for name in ("names", "input_shape"):
            raw[name] = tuple(raw[name])
        return cls(**raw)

    def write(self, path: Path) -> None:
        """Write the file that `read` reads."""
        path.write_text(json.dumps(dataclasses.asdict(self)))
