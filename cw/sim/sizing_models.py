"""The fleet: which models are to be planned for, read from what `cw plan --models` is given.

That is a number (so many copies of the device profile's own model), a TOML file (`docs/plan.md`
has the format), or what ``cw status --json`` printed: then batches, weights, pages and the rate of
LOADs are those that a cluster of one's own has measured.

It must not know: the traffic. Neighbours: `sizing_traffic.py` lays the traffic on the models.
"""

import json
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from cw.devices.profile_file import BatchDurations, EmulationProfile, read_profile
from cw.errors import ConfigError
from cw.sim.scenario import IMAGE_BYTES, OTHER_IMAGE_BYTES, SimModel, equal_models
from cw.units import pages_for, parse_duration_ns, parse_size_bytes

_KEYS: Final = (
    "name",
    "copies",
    "image",
    "batch",
    "profile",
    "batch_sizes",
    "share",
    "tenant",
    "slo",
)
_MODELS_MAX: Final = 50_000
"""As many as a controller takes (`SchedulerSettings.max_models`)."""
_EXAMPLE: Final = (
    '[[models]] with name = "resnet", copies = 20, image = "100MB", '
    'batch = { 1 = "2.6ms", 8 = "9.9ms" }, share = 3'
)


@attrs.frozen(kw_only=True)
class Fleet:
    """Models, the most popular first, and the device that they are to run on."""

    profile: EmulationProfile
    models: tuple[SimModel, ...]
    shares: tuple[float, ...]
    """For each model its part of the traffic, where the trace does not name models; any sum."""
    slos_ns: tuple[int | None, ...]
    """For each model its own SLO; None: that of the command."""

    def image_bytes_of(self, model: int) -> int:
        """Say how large a model's weights are."""
        return self.models[model].image_bytes or IMAGE_BYTES.get(
            self.profile.name, OTHER_IMAGE_BYTES
        )

    def pages_of(self, model: int) -> int:
        """Say how many pages a model's weights take."""
        return pages_for(self.image_bytes_of(model))

    def slowest_load_ns(self) -> int:
        """Say how long the LOAD of the largest model takes."""
        return self.profile.load_ns(max(map(self.image_bytes_of, range(len(self.models)))))

    def table_of(self, model: int) -> dict[int, int]:
        """Say how long (ns) each batch size of a model takes."""
        one = self.models[model]
        durations = one.durations or self.profile.infer
        sizes = one.batch_sizes or durations.batch_sizes
        return {size: durations.duration_ns(size) for size in sizes}


def read_fleet(text: str, profile: EmulationProfile) -> Fleet:
    """Read what was given for models.

    Args:
        text: A number, or the path of a TOML file or of a cluster's status in JSON.
        profile: The device's.

    Raises:
        ConfigError: It is not what was expected, or a model is larger than a device.
    """
    if text.isdigit():
        fleet = _equal(int(text), profile)
    else:
        path = Path(text)
        try:
            raw = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"--models: expected a number, a TOML file, or what `cw status --json` printed; "
                f"{text!r} can't be read: {exc}"
            ) from exc
        is_status = raw.lstrip().startswith("{")
        fleet = _from_status(raw, path, profile) if is_status else _from_toml(raw, path, profile)
    for index, model in enumerate(fleet.models):
        if fleet.pages_of(index) > fleet.profile.pages_total:
            raise ConfigError(
                f"model {model.name!r} takes {fleet.pages_of(index)} pages of 16 MiB, but a "
                f"{fleet.profile.name} has {fleet.profile.pages_total}: no number of GPUs can "
                "serve it; take a larger device (--profile, --pages)"
            )
    return fleet


def _equal(count: int, profile: EmulationProfile) -> Fleet:
    if not 1 <= count <= _MODELS_MAX:
        raise ConfigError(f"--models: expected 1 to {_MODELS_MAX} models, got {count}")
    return Fleet(
        profile=profile,
        models=equal_models(count),
        shares=(1.0,) * count,
        slos_ns=(None,) * count,
    )


def _fleet(
    profile: EmulationProfile, rows: Sequence[tuple[SimModel, float, int | None]], where: Path
) -> Fleet:
    """Bring models into the order of their shares."""
    if not 1 <= len(rows) <= _MODELS_MAX:
        raise ConfigError(
            f"{where}: expected 1 to {_MODELS_MAX} models, got {len(rows)}; e.g. {_EXAMPLE}"
        )
    ordered = sorted(rows, key=lambda row: -row[1])
    return Fleet(
        profile=profile,
        models=tuple(model for model, _, _ in ordered),
        shares=tuple(share for _, share, _ in ordered),
        slos_ns=tuple(slo_ns for _, _, slo_ns in ordered),
    )


# --- TOML -----------------------------------------------------------------------------------------


def _from_toml(raw: str, path: Path, profile: EmulationProfile) -> Fleet:
    try:
        table = tomllib.loads(raw)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: expected TOML such as {_EXAMPLE}: {exc}") from exc
    entries = table.get("models")
    if table.keys() != {"models"} or not isinstance(entries, list) or not entries:
        raise ConfigError(
            f"{path}: expected one or more {_EXAMPLE}; got the keys {', '.join(table) or 'none'}"
        )
    rows: list[tuple[SimModel, float, int | None]] = []
    named: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: model {number}"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: expected a table, got {entry!r}")
        try:
            made = _entry(entry)
        except (ValueError, TypeError, ConfigError) as exc:
            raise ConfigError(f"{where} ({entry.get('name', 'without a name')}): {exc}") from exc
        again = named & {model.name for model, _, _ in made}
        if again:
            raise ConfigError(f"{where}: {min(again)!r} is there already: give it another name")
        named |= {model.name for model, _, _ in made}
        rows += made
    having = ["share" in entry for entry in entries]
    if any(having) and not all(having):
        raise ConfigError(
            f"{path}: expected a share of the traffic for each model or for none, got one for "
            f"{sum(having)} of {len(having)}"
        )
    return _fleet(profile, rows, path)


def _entry(entry: Mapping[str, Any]) -> list[tuple[SimModel, float, int | None]]:
    """Make the copies that one entry asks for, with their shares and SLOs."""
    unknown = entry.keys() - set(_KEYS)
    if unknown:
        raise ConfigError(f"unknown key {min(unknown)!r}; known: {', '.join(_KEYS)}")
    name, copies, tenant = entry.get("name"), entry.get("copies", 1), entry.get("tenant", 0)
    if not isinstance(name, str) or not name:
        raise ConfigError(f'expected a name = "...", got {name!r}')
    if not _is_whole(copies, 1) or copies > _MODELS_MAX:
        raise ConfigError(f"copies: expected 1 to {_MODELS_MAX}, got {copies!r}")
    if not _is_whole(tenant, 0):
        raise ConfigError(f"tenant: expected a whole number of at least 0, got {tenant!r}")
    share = entry.get("share", copies)
    if isinstance(share, bool) or not isinstance(share, int | float) or share < 0:
        raise ConfigError(f"share: expected a number of at least 0, got {share!r}")
    durations, image_bytes = _durations(entry)
    if "image" in entry:
        image_bytes = parse_size_bytes(str(entry["image"]))
    if "image" in entry and image_bytes < 1:
        raise ConfigError(f"image: expected a size above 0, got {entry['image']!r}")
    slo_ns = parse_duration_ns(str(entry["slo"])) if "slo" in entry else None
    return [
        (
            SimModel(
                name=name if copies == 1 else f"{name}-{copy}",
                image_bytes=image_bytes,
                durations=durations,
                batch_sizes=_batch_sizes(entry.get("batch_sizes", [])),
                tenant=tenant,
            ),
            share / copies,
            slo_ns,
        )
        for copy in range(copies)
    ]


def _durations(entry: Mapping[str, Any]) -> tuple[BatchDurations | None, int]:
    """Give an entry's own durations, and the weights of the model that they were measured with."""
    if "batch" in entry and "profile" in entry:
        raise ConfigError("expected batch durations or a profile to take them from, got both")
    if "profile" in entry:
        profile = read_profile(str(entry["profile"]))
        return profile.infer, IMAGE_BYTES.get(profile.name, 0)
    if "batch" not in entry:
        return None, 0
    table = entry["batch"]
    if not isinstance(table, dict) or not table:
        raise ConfigError(f'batch: expected e.g. {{ 1 = "2.6ms", 8 = "9.9ms" }}, got {table!r}')
    return _measured({int(size): parse_duration_ns(str(text)) for size, text in table.items()}), 0


def _measured(points: Mapping[int, int]) -> BatchDurations:
    sizes = tuple(sorted(points))
    durations_ns = tuple(points[size] for size in sizes)
    if not sizes or sizes[0] != 1 or min(durations_ns) < 1:
        raise ConfigError(
            f"batch: expected durations above 0 from batch size 1 on, got {dict(points)}"
        )
    return BatchDurations(batch_sizes=sizes, durations_ns=durations_ns)


def _batch_sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(_is_whole(size, 1) for size in value):
        raise ConfigError(f"batch_sizes: expected e.g. [1, 2, 4, 8], got {value!r}")
    sizes = tuple(sorted(set(value)))
    if sizes and sizes[0] != 1:
        raise ConfigError(f"batch_sizes: expected the first to be 1, got {value!r}")
    return sizes


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# --- a cluster's own status -----------------------------------------------------------------------


def _from_status(raw: str, path: Path, profile: EmulationProfile) -> Fleet:
    try:
        status = json.loads(raw)
        ready = [model for model in status["models"] if model["profile"]]
        rows: list[tuple[SimModel, float, int | None]] = [
            (
                SimModel(
                    name=str(model["name"]),
                    image_bytes=int(model["image_bytes"]),
                    durations=_measured(
                        {int(row["batch_size"]): int(row["p50_ns"]) for row in model["profile"]}
                    ),
                ),
                1.0,
                None,
            )
            for model in ready
        ]
        device = _measured_device(status, ready, profile)
    except (KeyError, TypeError, ValueError) as exc:
        raise ConfigError(
            f"{path}: expected what `cw status --json` prints, with measured models; {exc!r}"
        ) from exc
    return _fleet(device, rows, path)


def _measured_device(
    status: Mapping[str, Any], models: Sequence[Mapping[str, Any]], profile: EmulationProfile
) -> EmulationProfile:
    """Take pages and the rate of LOADs from a cluster, where they can be had; the rest stays."""
    changes: dict[str, Any] = {}
    executors = status["executors"]
    if executors:
        changes["name"] = str(executors[0]["device"])
        changes["pages_total"] = min(int(executor["pages"]) for executor in executors)
    rates = [
        model["image_bytes"] / (model["load_ms"] / 1e3) for model in models if model["load_ms"]
    ]
    if rates:
        changes["load_bytes_per_second"] = round(statistics.median(rates))
        changes["load_overhead_ns"] = 0
    return attrs.evolve(profile, **changes)
