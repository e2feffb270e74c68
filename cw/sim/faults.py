"""Faults: what goes wrong in a run, and when; written by a person or drawn from a seed.

One fault is written ``KIND@TIME[:KEY=VALUE...]``, several are separated by commas, and
``random:N`` draws N of them. Times count from the start of the traffic.

===========  =========================================================  =========================
kind         what happens                                               keys
===========  =========================================================  =========================
``die``      an executor dies; its peers notice when the connection     ``on``, ``for`` (it comes
             breaks                                                     back empty after that)
``stall``    an executor stops and goes on as if nothing had been;      ``on``, ``for``
             silent for too long, it is given up and joins anew
``slow``     an executor takes ``by`` times as long, for everything     ``on``, ``for``, ``by``
``clock``    the clock of an executor's GPU drops: its INFERs take      ``on``, ``for``, ``by``
             ``by`` times as long, its LOADs do not
``model``    the batches of a model take ``by`` times as long,          ``on``, ``for``, ``by``
             wherever they run
``skew``     the clock by which an executor lives is set wrong by       ``on``, ``by`` (a time)
             ``by``
``drift``    that clock goes too fast by ``by`` millionths from now on  ``on``, ``by``
``lag``      every message takes ``by`` longer                          ``for``, ``by`` (a time)
``cancel``   callers hang up on a share ``by`` of the requests that     ``for``, ``by``
             arrive
``gateway``  a gateway dies with its clients' connections               ``on``
===========  =========================================================  =========================
"""

import enum
import random
from typing import Any, Final

import attrs

from cw.errors import ConfigError
from cw.units import MS, SECOND, parse_duration_ns


class FaultKind(enum.Enum):
    """What goes wrong."""

    DIE = "die"
    STALL = "stall"
    SLOW = "slow"
    CLOCK = "clock"
    MODEL = "model"
    SKEW = "skew"
    DRIFT = "drift"
    LAG = "lag"
    CANCEL = "cancel"
    GATEWAY = "gateway"


DRIFT_MAX_PPM: Final = 10_000
"""A clock that goes wrong by 1 % is broken: nobody could live by it."""

_BY_FACTOR: Final = (
    FaultKind.SLOW,
    FaultKind.CLOCK,
    FaultKind.MODEL,
    FaultKind.DRIFT,
    FaultKind.CANCEL,
)
"""Their ``by`` is a number; the others' is a time."""


@attrs.frozen(kw_only=True)
class Fault:
    """One thing that goes wrong."""

    kind: FaultKind
    at_ns: int
    """From the start of the traffic."""
    on: int = 0
    """Which executor, gateway or model, counted from 0."""
    for_ns: int = 0
    """How long; 0 is for good, where that makes sense."""
    by_ns: int = 0
    """Of a skew or a lag."""
    factor: float = 1.0
    """Of a slowness; of a drift, in millionths; of cancels, the share."""

    def __str__(self) -> str:
        """Write it as it is typed."""
        text = f"{self.kind.value}@{self.at_ns}ns:on={self.on}"
        if self.for_ns:
            text += f":for={self.for_ns}ns"
        if self.kind in _BY_FACTOR:
            text += f":by={self.factor:g}"
        elif self.by_ns:
            text += f":by={self.by_ns}ns"
        return text


def parse_faults(
    text: str, *, seed: int, duration_ns: int, executors: int, gateways: int, models: int = 1
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
                count,
                seed=seed,
                duration_ns=duration_ns,
                executors=executors,
                gateways=gateways,
                models=models,
            )
        else:
            faults.append(_parse_fault(part))
    bounds = {FaultKind.GATEWAY: gateways, FaultKind.MODEL: models}
    for fault in faults:
        bound = bounds.get(fault.kind, executors)
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
    needs: dict[FaultKind, bool] = {
        FaultKind.STALL: fault.for_ns > 0,
        FaultKind.SKEW: fault.by_ns != 0,
        FaultKind.LAG: fault.by_ns != 0,
        FaultKind.CANCEL: 0 < fault.factor <= 1,
        FaultKind.DRIFT: abs(fault.factor) <= DRIFT_MAX_PPM,
    }
    if not needs.get(kind, fault.factor > 0):
        raise ConfigError(
            f"the fault {text!r} needs a 'for' (stall), a 'by' (skew, lag), a 'by' above 0 (slow, "
            f"clock, model) and up to 1 (cancel), or one within {DRIFT_MAX_PPM} (drift)"
        )
    return fault


def _option(kind: FaultKind, key: str, value: str) -> dict[str, Any]:
    match key:
        case "on":
            return {"on": int(value)}
        case "for":
            return {"for_ns": parse_duration_ns(value)}
        case "by" if kind in _BY_FACTOR:
            return {"factor": float(value)}
        case "by":
            sign = -1 if value.startswith("-") else 1
            return {"by_ns": sign * parse_duration_ns(value.removeprefix("-"))}
        case _:
            raise KeyError(key)


def draw_faults(
    count: int, *, seed: int, duration_ns: int, executors: int, gateways: int, models: int = 1
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
        on = rng.randrange(models if kind is FaultKind.MODEL else executors)
        if kind is FaultKind.GATEWAY:
            left -= 1
            faults.append(Fault(kind=kind, at_ns=at_ns, on=left))
        else:
            faults.append(Fault(kind=kind, at_ns=at_ns, **_drawn(kind, on, rng)))
    return sorted(faults, key=lambda fault: fault.at_ns)


def _drawn(kind: FaultKind, on: int, rng: random.Random) -> dict[str, Any]:
    """Draw the rest of a fault."""
    match kind:
        case FaultKind.DIE:
            return {"on": on, "for_ns": rng.randrange(2 * SECOND) + MS}
        case FaultKind.STALL:
            # Short pauses are many, long ones end in a loss.
            return {"on": on, "for_ns": rng.choice([5 * MS, 30 * MS, 200 * MS, 1500 * MS])}
        case FaultKind.SLOW:
            return {"on": on, "for_ns": _a_while(rng), "factor": round(1 + 2 * rng.random(), 2)}
        case FaultKind.CLOCK:
            # From the highest clock of a GPU to the lowest that it runs at for long.
            return {"on": on, "for_ns": _a_while(rng), "factor": round(1 + rng.random() / 2, 2)}
        case FaultKind.MODEL:
            factor = round(0.5 + 1.5 * rng.random(), 2)
            return {"on": on, "for_ns": _a_while(rng), "factor": factor}
        case FaultKind.SKEW:
            return {"on": on, "by_ns": rng.randrange(-MS // 2, MS // 2) or MS // 4}
        case FaultKind.DRIFT:
            return {"on": on, "factor": float(rng.randint(-100, 100))}
        case FaultKind.CANCEL:
            return {"for_ns": _a_while(rng), "factor": round(0.05 + rng.random() / 2, 2)}
        case _:
            return {"for_ns": _a_while(rng) // 2 + 1, "by_ns": rng.randrange(5 * MS) + 1}


def _a_while(rng: random.Random) -> int:
    return rng.randrange(SECOND) + MS
