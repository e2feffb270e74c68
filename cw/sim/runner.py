"""The runner: arguments to a scenario, a scenario to a report."""

import argparse
import tomllib
from collections.abc import Callable

import attrs

from cw.config import SchedulerSettings, settings_from
from cw.devices.profile_file import EmulationProfile, read_profile
from cw.errors import ConfigError
from cw.sim.clocks import ClockModel
from cw.sim.faults import parse_faults
from cw.sim.network import NetworkModel
from cw.sim.report import Report, make_report
from cw.sim.scenario import Scenario, equal_models
from cw.sim.world import World
from cw.units import parse_duration_ns, parse_size_bytes
from cw.workload.parse import STREAMS, parse_stream
from cw.workload.workload import ClosedLoop, Stream, Workload


def simulate(
    scenario: Scenario,
    *,
    validate_every: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Run a scenario under all checkers and sum it up.

    Args:
        scenario: What to run.
        validate_every: Have the scheduler check its own invariants after so many events.
        progress: Told now and then which share of the traffic is over, 0 to 1.

    Raises:
        InvariantBroken: Something happened that must never happen.
        ConfigError: The models can't be registered on these devices.
    """
    world = World(scenario, validate_every=validate_every, progress=progress, keep_records=False)
    try:
        journal = world.run()
    except AssertionError as exc:
        faults = ",".join(map(str, scenario.faults)) or "none"
        exc.add_note(f"seed {scenario.seed}; faults of this run, as they are typed: {faults}")
        exc.add_note("to cut it down: python -m cw.sim.shrink, with the same arguments")
        raise
    return make_report(scenario, journal)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe a scenario's arguments."""
    arg = parser.add_argument
    arg("--models", type=int, default=8, help="how many (default: %(default)s)")
    arg("--rate", type=float, default=None, help="requests/s of all models together")
    arg("--slo", default="50ms", help="from arrival to answer (default: %(default)s)")
    arg("--arrivals", default="poisson", help=STREAMS)
    arg("--popularity", default="uniform", help="uniform or zipf:0.9")
    arg("--seconds", type=float, default=30.0, help="of traffic (default: %(default)s)")
    arg("--seed", type=int, default=1, help="same seed, same run (default: %(default)s)")
    arg("--policy", default="default", help="default or clockwork")
    arg(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a setting of the scheduler, e.g. margin=1ms or hold_ratio=0.5; may be repeated",
    )
    arg("--profile", default="cpu-resnet18", help="a shipped device profile, or a TOML file")
    arg("--executors", type=int, default=1, help="equal devices (default: %(default)s)")
    arg("--gateways", type=int, default=1, help="(default: %(default)s)")
    arg("--noise", type=float, default=None, help="relative sigma, instead of the profile's")
    arg("--outliers", type=float, default=None, help="probability, instead of the profile's")
    arg("--pages", type=int, default=None, help="of device memory, instead of the profile's")
    arg("--batch-sizes", default="", help="e.g. 1,2,4,8; default: those of the profile")
    arg("--model-size", default=None, help="weights of one model, e.g. 100MB")
    arg("--delay", default="0.25ms", help="of one message (default: %(default)s)")
    arg("--jitter", default="0.025ms", help="mean, on top of it (default: %(default)s)")
    arg("--bandwidth", default=None, help="of one link per second, e.g. 1GB; default: no limit")
    arg("--clock-offset", default="0ms", help="executors' clocks, at most (default: %(default)s)")
    arg("--clock-drift", type=int, default=0, help="and in millionths (default: %(default)s)")
    arg("--impatience", type=float, default=0.0, help="share of requests cancelled by callers")
    arg("--closed", type=int, default=0, help="clients of each model that wait for answers")
    arg("--faults", default="", help="e.g. die@5s:on=0:for=2s,slow@8s:for=1s:by=3 or random:3")
    arg("--validate-every", type=int, default=0, help="check the scheduler after N events")
    arg("--json", action="store_true", help="one JSON object on stdout")
    arg("--repeatable", action="store_true", help="leave out what differs from run to run")


def scenario_from(arguments: argparse.Namespace) -> Scenario:
    """Make the scenario that the arguments describe.

    Raises:
        ConfigError: An argument is not what was expected.
    """
    for name in ("models", "executors", "gateways"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"expected --{name} of at least 1, got {getattr(arguments, name)}")
    duration_ns = _duration_ns("seconds", f"{arguments.seconds}s")
    slo_ns = _duration_ns("slo", arguments.slo)
    return Scenario(
        profile=_profile(arguments),
        models=equal_models(
            arguments.models,
            image_bytes=_size_bytes("model-size", arguments.model_size),
            batch_sizes=_batch_sizes(arguments.batch_sizes),
        ),
        workload=_workload(arguments, slo_ns),
        executors=arguments.executors,
        gateways=arguments.gateways,
        slo_ns=slo_ns,
        duration_ns=duration_ns,
        seed=arguments.seed,
        settings=_settings(arguments),
        network=NetworkModel(
            delay_ns=_duration_ns("delay", arguments.delay),
            jitter_ns=_duration_ns("jitter", arguments.jitter),
            bytes_per_second=_size_bytes("bandwidth", arguments.bandwidth),
        ),
        clocks=ClockModel(
            offset_max_ns=_duration_ns("clock-offset", arguments.clock_offset),
            drift_max_ppm=arguments.clock_drift,
        ),
        faults=parse_faults(
            arguments.faults,
            seed=arguments.seed,
            duration_ns=duration_ns,
            executors=arguments.executors,
            gateways=arguments.gateways,
            models=arguments.models,
        ),
    )


def _workload(arguments: argparse.Namespace, slo_ns: int) -> Workload:
    models = tuple(range(arguments.models))
    closed: tuple[ClosedLoop, ...] = ()
    if arguments.closed:
        loop = ClosedLoop(models=models, clients_per_model=arguments.closed, slo_ns=slo_ns)
        closed = (loop,)
    streams: tuple[Stream, ...] = ()
    if not closed or arguments.rate is not None:
        stream = parse_stream(
            arguments.arrivals,
            popularity=arguments.popularity,
            rate_rps=arguments.rate,
            models=models,
            slo_ns=slo_ns,
        )
        streams = (stream,)
    return Workload(streams=streams, closed=closed, impatient_ratio=arguments.impatience)


def _settings(arguments: argparse.Namespace) -> SchedulerSettings:
    lines = [f'policy = "{arguments.policy}"']
    for one in arguments.settings:
        key, _, value = one.partition("=")
        is_number = value.removeprefix("-").replace(".", "", 1).isdigit()
        lines.append(f"{key} = {value}" if is_number else f'{key} = "{value}"')
    try:
        table = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"--set: expected KEY=VALUE such as margin=1ms: {exc}") from exc
    return settings_from(table, SchedulerSettings, where="--set")


def _profile(arguments: argparse.Namespace) -> EmulationProfile:
    changes = {
        "jitter_ratio": arguments.noise,
        "outlier_probability": arguments.outliers,
        "pages_total": arguments.pages,
    }
    changed = {name: value for name, value in changes.items() if value is not None}
    return attrs.evolve(read_profile(arguments.profile), **changed)


def _duration_ns(name: str, text: str) -> int:
    try:
        return parse_duration_ns(text)
    except ValueError as exc:
        raise ConfigError(f"--{name}: {exc}") from exc


def _size_bytes(name: str, text: str | None) -> int:
    try:
        return 0 if text is None else parse_size_bytes(text)
    except ValueError as exc:
        raise ConfigError(f"--{name}: {exc}") from exc


def _batch_sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(part) for part in text.split(",") if part}))
    except ValueError as exc:
        raise ConfigError(f"--batch-sizes: expected e.g. 1,2,4,8, got {text!r}") from exc
    if sizes and sizes[0] != 1:
        raise ConfigError(f"--batch-sizes: expected the first to be 1, got {text!r}")
    return sizes
