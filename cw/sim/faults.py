"""Faults: what goes wrong in a run, and when; written by a person or drawn from a seed.

One fault is written ``KIND@TIME[:KEY=VALUE...]``, several are separated by commas, and
``random:N`` draws N of them. Times count from the start of the traffic.

==========  ==========================================================  =========================
kind        what happens                                                keys
==========  ==========================================================  =========================
``die``     an executor dies; its peers notice when the connection      ``on``, ``for`` (it comes
            breaks                                                      back empty after that)
``stall``   an executor stops and goes on as if nothing had been;       ``on``, ``for``
            silent for too long, it is given up and joins anew
``slow``    an executor takes ``by`` times as long                      ``on``, ``for``, ``by``
``skew``    an executor's clock is wrong by ``by``                      ``on``, ``by`` (a time)
``lag``     every message takes ``by`` longer                           ``for``, ``by`` (a time)
``gateway`` a gateway dies with its clients' connections                ``on``
==========  ==========================================================  =========================
"""

import enum
import random
from typing import Any

import attrs

from cw.errors import ConfigError
from cw.units import MS, SECOND, parse_duration_ns


class FaultKind(enum.Enum):
    """What goes wrong."""

    DIE = "die"
    STALL = "stall"
    SLOW = "slow"
    SKEW = "skew"
    LAG = "lag"
    GATEWAY = "gateway"


@attrs.frozen(kw_only=True)
class Fault:
    """One thing that goes wrong."""

    kind: FaultKind
    at_ns: int
    """From the start of the traffic."""
    on: int = 0
    """Which executor or gateway, counted from 0."""
    for_ns: int = 0
    """How long; 0 is for good, where that makes sense."""
    by_ns: int = 0
    """Of a skew or a lag."""
    factor: float = 1.0
    """Of a slowness."""

    def __str__(self) -> str:
        """Write it as it is typed."""
        text = f"{self.kind.value}@{self.at_ns}ns:on={self.on}"
        if self.for_ns:
            text += f":for={self.for_ns}ns"
        if self.kind is FaultKind.SLOW:
            text += f":by={self.factor:g}"
        elif self.by_ns:
            text += f":by={self.by_ns}ns"
        return text


def parse_faults(
    text: str, *, seed: int, duration_ns: int, executors: int, gateways: int
) -> tuple[Fault, ...]:
    """Read what is written as the module's head says; an empty text is no fault.

    Raises:
        ConfigError: An unknown kind or key, or a value that does not fit.
    """
    faults: list[Fault] = []
    for part in filter(None, text.split(",")):
        if part.startswith("random:"):
            try:
                count = int(part.removeprefix("random:"))
            except ValueError as exc:
                raise ConfigError(f"expected random:N, such as random:3, got {part!r}") from exc
            faults += draw_faults(
                count, seed=seed, duration_ns=duration_ns, executors=executors, gateways=gateways
            )
        else:
            faults.append(_parse_fault(part))
    for fault in faults:
        bound = gateways if fault.kind is FaultKind.GATEWAY else executors
        if fault.on >= bound:
            raise ConfigError(f"expected 'on' below {bound} in {fault}: it is counted from 0")
    return tuple(faults)


def _parse_fault(text: str) -> Fault:
    head, *options = text.split(":")
    name, _, when = head.partition("@")
    try:
        kind = FaultKind(name)
        fault = Fault(kind=kind, at_ns=parse_duration_ns(when))
        for option in options:
            key, _, value = option.partition("=")
            fault = attrs.evolve(fault, **_option(kind, key, value))
    except (ValueError, KeyError) as exc:
        kinds = ", ".join(kind.value for kind in FaultKind)
        raise ConfigError(
            f"expected a fault such as die@5s:on=0:for=2s (kinds: {kinds}; keys: on, for, by), "
            f"got {text!r}: {exc}"
        ) from exc
    needs = {FaultKind.STALL: fault.for_ns, FaultKind.SKEW: fault.by_ns, FaultKind.LAG: fault.by_ns}
    if not needs.get(kind, 1):
        raise ConfigError(f"the fault {text!r} needs a 'for' (stall) or a 'by' (skew, lag)")
    return fault


def _option(kind: FaultKind, key: str, value: str) -> dict[str, Any]:
    match key:
        case "on":
            return {"on": int(value)}
        case "for":
            return {"for_ns": parse_duration_ns(value)}
        case "by" if kind is FaultKind.SLOW:
            return {"factor": float(value)}
        case "by":
            sign = -1 if value.startswith("-") else 1
            return {"by_ns": sign * parse_duration_ns(value.removeprefix("-"))}
        case _:
            raise KeyError(key)


def draw_faults(
    count: int, *, seed: int, duration_ns: int, executors: int, gateways: int
) -> list[Fault]:
    """Draw faults that a cluster should survive, in the order of their times.

    A gateway dies only where another is left.
    """
    rng = random.Random(f"faults {seed}")
    kinds = [kind for kind in FaultKind if kind is not FaultKind.GATEWAY]
    left = gateways
    faults = []
    for _ in range(count):
        kind = rng.choice(kinds if left < 2 else [*kinds, FaultKind.GATEWAY])
        at_ns = rng.randrange(duration_ns)
        on = rng.randrange(executors)
        match kind:
            case FaultKind.GATEWAY:
                left -= 1
                fault = Fault(kind=kind, at_ns=at_ns, on=left)
            case FaultKind.DIE:
                fault = Fault(kind=kind, at_ns=at_ns, on=on, for_ns=rng.randrange(2 * SECOND) + MS)
            case FaultKind.STALL:
                # Short pauses are many, long ones end in a loss.
                for_ns = rng.choice([5 * MS, 30 * MS, 200 * MS, 1500 * MS])
                fault = Fault(kind=kind, at_ns=at_ns, on=on, for_ns=for_ns)
            case FaultKind.SLOW:
                for_ns, factor = rng.randrange(SECOND) + MS, round(1 + 2 * rng.random(), 2)
                fault = Fault(kind=kind, at_ns=at_ns, on=on, for_ns=for_ns, factor=factor)
            case FaultKind.SKEW:
                by_ns = rng.randrange(-MS // 2, MS // 2) or MS // 4
                fault = Fault(kind=kind, at_ns=at_ns, on=on, by_ns=by_ns)
            case _:
                for_ns = rng.randrange(SECOND // 2) + MS
                fault = Fault(
                    kind=kind, at_ns=at_ns, for_ns=for_ns, by_ns=rng.randrange(5 * MS) + 1
                )
        faults.append(fault)
    return sorted(faults, key=lambda fault: fault.at_ns)
