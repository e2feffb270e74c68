"""The command ``cw plan``: from arguments to a question, from a plan to what is printed.

Neighbours: `sizing.py` finds the answer, `sizing_show.py` shows it, `command.py` (``cw simulate``).
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Final

import attrs
from rich.console import Console

from cw.config import SchedulerSettings
from cw.devices.profile_file import EmulationProfile, read_profile
from cw.errors import ConfigError
from cw.sim import plots, sizing_show
from cw.sim.command import shown_progress
from cw.sim.experiments.experiment import settings_for
from cw.sim.experiments.pool import Pool
from cw.sim.network import NetworkModel
from cw.sim.sizing import Question, make_plan
from cw.sim.sizing_cases import Measured
from cw.sim.sizing_models import Fleet, read_fleet
from cw.sim.sizing_traffic import find_stretch, is_endless, is_recorded, kind_of, read_stream
from cw.units import SECOND, parse_duration_ns, parse_size_bytes
from cw.workload.parse import STREAMS

_people: Final = Console(stderr=True, highlight=False)
_PRECISION: Final = 1.02
_PRECISION_QUICK: Final = 1.05
_SEEDS: Final = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    arg = parser.add_argument
    arg("--trace", required=True, metavar="FILE", help=f"a recorded trace; or {STREAMS}")
    arg("--slo", required=True, metavar="100ms", help="from arrival to answer")
    arg(
        "--models",
        required=True,
        metavar="FILE|N",
        help="a TOML file, what `cw status --json` printed, or a number of equal models",
    )
    arg("--target", default="99.9%", help="share of the requests in time (%(default)s)")
    arg("--profile", default="h100", help="the GPU: a shipped profile, or a TOML file")
    arg("--pages", type=int, help="of device memory (16 MiB each), instead of the profile's")
    arg("--link", metavar="12GB", help="what a GPU loads in a second, instead of the profile's")
    load = parser.add_argument_group("the traffic")
    arg = load.add_argument
    arg("--rate", type=float, help="mean requests/s of the whole trace; default: as recorded")
    arg("--popularity", help="uniform or zipf:0.9, where neither trace nor models say it")
    arg("--window", default="60s", help="plan for the busiest stretch so long (%(default)s)")
    arg("--whole", action="store_true", help="plan for the whole trace")
    arg("--lead-in", default="10s", help="warm-up before it, not counted (%(default)s)")
    arg("--seconds", type=int, help="how much to draw of a stream without an end")
    arg("--seed", type=int, default=1, help="the first (%(default)s)")
    arg("--seeds", type=int, help=f"how many (a trace that names models: 1; others: {_SEEDS})")
    search = parser.add_argument_group("the search")
    arg = search.add_argument
    arg("--policy", default="default", help="NAME or NAME:KEY=VALUE:KEY=VALUE")
    arg("--delay", default="0.25ms", help="of one message (%(default)s)")
    arg("--jitter", default="0.025ms", help="mean, on top of it (%(default)s)")
    arg("--gpus-max", type=int, default=1024, help="look no further (%(default)s)")
    arg("--quick", action="store_true", help="head-room to 5 %%, no table of other SLOs")
    arg("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (%(default)s)")
    arg("--out", type=Path, metavar="DIR", help="write tables (CSV), JSON and plot (PNG, SVG)")
    arg("--json", action="store_true", help="one JSON object on stdout")
    arg("--repeatable", action="store_true", help="leave out what differs from run to run")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status.

    Raises:
        ConfigError: An argument is not what was expected, or no number of GPUs will do.
        InvariantBroken: Something happened in a run that must never happen.
    """
    if arguments.out is not None:
        plots.require()
    began_s = time.perf_counter()
    question = question_from(arguments)
    _people.print(sizing_show.stretch_words(question))
    with shown_progress() as progress, Pool(jobs=arguments.jobs, progress=progress) as pool:
        plan = make_plan(question, pool, _tell)
    wall_s = time.perf_counter() - began_s
    if arguments.json:
        timed = {} if arguments.repeatable else {"wall_seconds": round(wall_s, 3)}
        print(json.dumps(sizing_show.as_json(question, plan) | timed))
    else:
        sizing_show.say(question, plan)
        _people.print(f"planned in {wall_s:.1f} s")
    if arguments.out is not None:
        paths = sizing_show.write(question, plan, arguments.out)
        _people.print("wrote " + " ".join(map(str, paths)), soft_wrap=True)
    return 0


def _tell(measured: Measured, reaches: bool) -> None:
    mark = "holds" if reaches else "misses"
    _people.print(f"  {measured.case}: {100 * measured.attainment:.3f} % in time, {mark}")


def question_from(arguments: argparse.Namespace) -> Question:
    """Read what the arguments name.

    Raises:
        ConfigError: An argument is not what was expected.
    """
    for name in ("jobs", "gpus_max", "seeds", "seconds", "pages"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"expected --{name.replace('_', '-')} of at least 1, got {value}")
    slo_ns = _duration_ns("slo", arguments.slo)
    if not slo_ns:
        raise ConfigError("--slo: expected a duration above 0, e.g. 100ms")
    fleet = _fleet(arguments)
    slos_ns = tuple(own_ns or slo_ns for own_ns in fleet.slos_ns)
    text = kind_of(arguments.trace)
    stream = read_stream(
        text, fleet, rate_rps=arguments.rate, popularity=arguments.popularity, slo_ns=slo_ns
    )
    window_s = None if arguments.whole else _whole_seconds("window", arguments.window, least=1)
    lead_s = _whole_seconds("lead-in", arguments.lead_in, least=0)
    endless_s = None
    if is_endless(text):
        endless_s = arguments.seconds or (window_s or 60) + lead_s
    elif arguments.seconds is not None:
        raise ConfigError("--seconds is for streams without an end; a trace has its own length")
    count = arguments.seeds or (1 if is_recorded(stream) else _SEEDS)
    seeds = tuple(range(arguments.seed, arguments.seed + count))
    return Question(
        fleet=fleet,
        stretch=find_stretch(
            stream,
            fleet,
            slos_ns=slos_ns,
            seeds=seeds,
            window_s=window_s,
            lead_s=lead_s,
            endless_s=endless_s,
        ),
        slo_ns=slo_ns,
        target=_target(arguments.target),
        seeds=seeds,
        settings=settings_for(arguments.policy, SchedulerSettings()),
        network=NetworkModel(
            delay_ns=_duration_ns("delay", arguments.delay),
            jitter_ns=_duration_ns("jitter", arguments.jitter),
        ),
        gpus_max=arguments.gpus_max,
        precision=_PRECISION_QUICK if arguments.quick else _PRECISION,
        tighter=not arguments.quick,
    )


def _fleet(arguments: argparse.Namespace) -> Fleet:
    """Read the models; what was typed of the device comes before what a cluster measured."""
    profile = _typed_device(read_profile(arguments.profile), arguments)
    fleet = read_fleet(arguments.models, profile)
    return attrs.evolve(fleet, profile=_typed_device(fleet.profile, arguments))


def _typed_device(profile: EmulationProfile, arguments: argparse.Namespace) -> EmulationProfile:
    if arguments.pages is not None:
        profile = attrs.evolve(profile, pages_total=arguments.pages)
    if arguments.link is not None:
        try:
            rate = parse_size_bytes(arguments.link)
        except ValueError as exc:
            raise ConfigError(f"--link: {exc}") from exc
        profile = attrs.evolve(profile, load_bytes_per_second=rate)
    return profile


def _target(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        value = round(share, 9)  # 99.9 / 100 is not quite 0.999
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ConfigError(f"--target: expected a share such as 99.9% or 0.999, got {text!r}")
    return value


def _duration_ns(name: str, text: str) -> int:
    try:
        return parse_duration_ns(text)
    except ValueError as exc:
        raise ConfigError(f"--{name}: {exc}") from exc


def _whole_seconds(name: str, text: str, *, least: int) -> int:
    seconds, rest = divmod(_duration_ns(name, text), SECOND)
    if rest or seconds < least:
        raise ConfigError(f"--{name}: expected whole seconds, at least {least}, got {text!r}")
    return seconds
