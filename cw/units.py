"""Units: the only place where a number of seconds, bytes or pages is spelled out.

Every instant and duration in cw is an int of nanoseconds and every size an int of bytes; what a
person types or reads ("100ms", "256MiB") is converted here, at the edge.
"""

import re
from typing import Final

US: Final = 1_000
MS: Final = 1_000_000
SECOND: Final = 1_000_000_000

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30

PAGE_BYTES: Final = 16 * MiB
"""One page of device memory. Source: Clockwork (OSDI 2020) section 5.3 pages weights by 16 MiB."""

_DURATIONS: Final = {
    "ns": 1,
    "us": US,
    "ms": MS,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_SIZES: Final = {
    "b": 1,
    "kib": KiB,
    "mib": MiB,
    "gib": GiB,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
}
_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)\s*")


def div_ceil(numerator: int, denominator: int) -> int:
    """Divide two ints, rounding up."""
    return -(-numerator // denominator)


def pages_for(size_bytes: int) -> int:
    """Say how many pages hold `size_bytes`; at least one, since an empty model cannot be run."""
    return max(1, div_ceil(size_bytes, PAGE_BYTES))


def _parse(text: str, units: dict[str, int], kind: str, example: str) -> int:
    match = _QUANTITY.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in units:
        allowed = ", ".join(units)
        raise ValueError(f"expected a {kind} such as {example} (units: {allowed}), got {text!r}")
    return round(float(match.group(1)) * units[unit])


def parse_duration_ns(text: str) -> int:
    """Read a duration such as ``100ms`` into nanoseconds.

    Raises:
        ValueError: The text is not a number followed by ns, us, ms, s, m or h.
    """
    return _parse(text, _DURATIONS, "duration", "'100ms'")


def parse_size_bytes(text: str) -> int:
    """Read a size such as ``256MiB`` into bytes.

    Raises:
        ValueError: The text is not a number followed by B, KiB, MiB, GiB, kB, MB or GB.
    """
    return _parse(text, _SIZES, "size", "'256MiB'")


def format_ms(duration_ns: float) -> str:
    """Write a duration for people: milliseconds with as many digits as matter."""
    value = duration_ns / MS
    return f"{value:.0f} ms" if abs(value) >= 100 else f"{value:.2f} ms"


def format_bytes(size_bytes: int) -> str:
    """Write a size for people, in binary units."""
    for unit, factor in (("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"
