"""Profile files: how fast an emulated device is, as TOML (`profiles/README.md` has the format).

Pure: a file in, durations out. The draws of a seeded generator are made in `emulated.py`.
"""

import bisect
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import attrs

from cw.errors import ConfigError
from cw.units import SECOND, div_ceil, parse_duration_ns

SHIPPED: Final = Path(__file__).parent / "profiles"
"""Where the profiles lie that come with cw."""

_KEYS: Final = {
    "name",
    "pages_total",
    "shared_lanes",
    "seed",
    "prepare_program",
    "prepare_model",
    "load_bytes_per_second",
    "load_overhead",
    "jitter_ratio",
    "outlier_probability",
    "outlier",
    "infer",
    "programs",
}


@attrs.frozen
class BatchDurations:
    """Durations by batch size; between two of the table, and beyond its last, on a line.

    Attributes:
        batch_sizes: Rising, at least one.
        durations_ns: One for each.
    """

    batch_sizes: tuple[int, ...]
    durations_ns: tuple[int, ...]

    def duration_ns(self, batch_size: int) -> int:
        """Say how long a batch of `batch_size` takes, in ns, never less than 0."""
        sizes, durations = self.batch_sizes, self.durations_ns
        if len(sizes) == 1:
            return durations[0]
        upper = min(max(bisect.bisect_left(sizes, batch_size), 1), len(sizes) - 1)
        low, high = sizes[upper - 1], sizes[upper]
        rise = (durations[upper] - durations[upper - 1]) * (batch_size - low)
        return max(0, durations[upper - 1] + rise // (high - low))


@attrs.frozen(kw_only=True)
class EmulationProfile:
    """A device to emulate.

    Attributes:
        name: Of the card or processor; profiles learnt by the scheduler are shared by it.
        pages_total: Pages of 16 MiB that the real device would have for weights.
        shared_lanes: LOAD and INFER take turns, as on a CPU.
        seed: Of the jitter, unless the device is given another.
        prepare_program_ns: A PREPARE of a program's first model: loading and capturing.
        prepare_model_ns: A PREPARE of any further model of it.
        load_bytes_per_second: Rate of a LOAD; 0 means that it takes no time.
        load_overhead_ns: Added to each LOAD.
        jitter_ratio: Standard deviation of a duration, as a share of it.
        outlier_probability: How often an action takes `outlier_ns` more.
        outlier_ns: How much that is.
        infer: Durations of a program that has no table of its own.
        programs: Durations by a program's sha256.
    """

    name: str
    pages_total: int
    shared_lanes: bool
    seed: int
    prepare_program_ns: int
    prepare_model_ns: int
    load_bytes_per_second: int
    load_overhead_ns: int
    jitter_ratio: float
    outlier_probability: float
    outlier_ns: int
    infer: BatchDurations
    programs: Mapping[str, BatchDurations]

    def infer_ns(self, program_sha256: str, batch_size: int) -> int:
        """Say how long an INFER takes, without jitter."""
        return self.programs.get(program_sha256, self.infer).duration_ns(batch_size)

    def load_ns(self, image_bytes: int) -> int:
        """Say how long a LOAD takes, without jitter."""
        if self.load_bytes_per_second == 0:
            return self.load_overhead_ns
        return self.load_overhead_ns + div_ceil(image_bytes * SECOND, self.load_bytes_per_second)


def read_profile(name: str) -> EmulationProfile:
    """Read a profile by a shipped one's name, or from a file.

    Args:
        name: E.g. ``h100``; with a slash or ending in ``.toml`` it is a path.

    Raises:
        ConfigError: There is none, or a key is missing, unknown or out of bounds.
    """
    is_path = "/" in name or name.endswith(".toml")
    path = Path(name) if is_path else SHIPPED / f"{name}.toml"
    if not is_path and not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.toml")))
        raise ConfigError(f"expected a profile of {shipped}, or a TOML file's path, got {name!r}")
    try:
        return parse_profile(path.read_text("utf-8"))
    except (OSError, ValueError, TypeError, ConfigError) as exc:
        raise ConfigError(f"expected a device profile at {path}: {exc}") from exc


def parse_profile(text: str) -> EmulationProfile:
    """Read a profile's text.

    Raises:
        ConfigError: A key is missing, unknown or out of bounds.
        ValueError: The text is no TOML, or a duration can't be read.
    """
    table = tomllib.loads(text)
    if table.keys() | {"programs", "seed"} != _KEYS:
        differ = ", ".join(sorted(table.keys() ^ _KEYS))
        raise ConfigError(f"expected the keys {', '.join(sorted(_KEYS))}; these differ: {differ}")
    programs = {sha: _durations(entry, sha) for sha, entry in table.get("programs", {}).items()}
    return EmulationProfile(
        name=str(table["name"]),
        pages_total=_whole(table, "pages_total", least=1),
        shared_lanes=bool(table["shared_lanes"]),
        seed=_whole({"seed": 0, **table}, "seed"),
        prepare_program_ns=parse_duration_ns(str(table["prepare_program"])),
        prepare_model_ns=parse_duration_ns(str(table["prepare_model"])),
        load_bytes_per_second=_whole(table, "load_bytes_per_second"),
        load_overhead_ns=parse_duration_ns(str(table["load_overhead"])),
        jitter_ratio=_share(table, "jitter_ratio"),
        outlier_probability=_share(table, "outlier_probability"),
        outlier_ns=parse_duration_ns(str(table["outlier"])),
        infer=_durations(table["infer"], "infer"),
        programs=MappingProxyType(programs),
    )


def _durations(entry: Any, where: str) -> BatchDurations:
    if not isinstance(entry, dict) or not entry:
        raise ConfigError(f'[{where}]: expected lines such as 8 = "1.7ms", got {entry!r}')
    points = sorted((int(size), parse_duration_ns(str(text))) for size, text in entry.items())
    if points[0][0] < 1:
        raise ConfigError(f"[{where}]: expected batch sizes from 1, got {points[0][0]}")
    return BatchDurations(
        batch_sizes=tuple(size for size, _ in points),
        durations_ns=tuple(duration for _, duration in points),
    )


def _whole(table: Mapping[str, Any], key: str, *, least: int = 0) -> int:
    value = table[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key}: expected a whole number of at least {least}, got {value!r}")
    return value


def _share(table: Mapping[str, Any], key: str) -> float:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{key}: expected a number in 0..1, got {value!r}")
    return float(value)
