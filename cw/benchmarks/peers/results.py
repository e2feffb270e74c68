"""What has been measured so far, in one JSON file: a run that was cut short goes on where it was.

Each cell's result stands under its key (`cases.Cell.key`); what a server could not do stands under
its name and case, in words. Cells of other conditions (seed, seconds) are not mixed in silently:
each says its own.
"""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import attrs

from cw.benchmarks.peers.cases import Case, Cell
from cw.errors import ConfigError


@attrs.define(eq=False)
class Results:
    """A results file, written anew at each change.

    Attributes:
        path: Where.
        machine: Processor and versions.
        bare: Per case, what the bare loop took: batch size -> ns; and of cw's own kernels.
        cells: By key.
        failures: By ``server/case``.
    """

    path: Path
    machine: dict[str, str] = attrs.field(factory=dict)
    bare: dict[str, dict[str, dict[str, int]]] = attrs.field(factory=dict)
    cells: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    failures: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; an empty one if there is none.

        Raises:
            ConfigError: It is not such a file.
        """
        if not path.exists():
            return cls(path, machine=describe_machine())
        try:
            return cls(path, **json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as exc:
            raise ConfigError(f"{path}: expected results of tools/bench_peers: {exc}") from exc

    def add(self, cell: Cell, found: Mapping[str, Any]) -> None:
        """Keep a cell's result."""
        self.cells[cell.key] = dict(found)
        self.failures.pop(f"{cell.server}/{cell.case.name}", None)
        self._write()

    def fail(self, server: str, case: Case, why: str) -> None:
        """Keep why a server has no result for a case."""
        self.failures[f"{server}/{case.name}"] = why
        self._write()

    def set_bare(self, case: Case, durations: Mapping[str, Mapping[int, int]]) -> None:
        """Keep a case's profile."""
        self.bare[case.name] = {
            kernels: {str(size): ns for size, ns in own.items()}
            for kernels, own in durations.items()
        }
        self._write()

    def durations(self, case: Case, kernels: str) -> dict[int, int]:
        """Return batch size -> duration (ns) of the bare loop with the kernels."""
        return {int(size): ns for size, ns in self.bare[case.name][kernels].items()}

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".new")
        content = attrs.asdict(self, filter=lambda attribute, _: attribute.name != "path")
        scratch.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(scratch, self.path)  # whole or not at all


def describe_machine() -> dict[str, str]:
    """Name the processor and what the figures depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch").partition("+")[0],
    }
