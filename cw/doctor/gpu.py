"""NVIDIA cards: settings and neighbours that make the same kernel take longer the next time.

No program should change a card's settings for its own sake, so they are told here, with the
command for an administrator.
"""

from collections.abc import Callable, Iterator

import attrs

from cw.doctor.finding import Finding, Verdict, ok

_CLOCK_SHARE_LEAST = 0.6
"""Idle cards that were let alone stand at 15 to 30 % of their clock; a locked one at what it was
locked to, which is chosen near the top."""


@attrs.frozen(kw_only=True)
class CardFacts:
    """One card, as `nvidia-smi` describes it. None and empty texts: not told by this card."""

    index: int
    name: str
    driver: str
    persistence: str
    """``Enabled`` or ``Disabled``."""
    sm_mhz: int | None
    sm_max_mhz: int | None
    busy_ratio: float | None
    """Of the last second or so, while kernels ran."""
    ecc: str
    """``Enabled`` or ``Disabled``."""
    uncorrected_errors: int | None
    """Of its memory, since the driver was loaded."""
    compute_mode: str
    """``Default``, ``Exclusive_Process`` or ``Prohibited``."""
    mig: str
    """``Enabled`` or ``Disabled``."""
    link_width: int | None
    """PCIe lanes in use."""
    link_width_max: int | None
    link_generation: int | None
    """Of PCIe. Falls while the card idles."""
    link_generation_max: int | None
    executors: tuple[str, ...] = ()
    """Processes of cw that use it, as ``pid name``."""
    others: tuple[str, ...] = ()
    """All other processes that use it."""


@attrs.frozen(kw_only=True)
class GpuFacts:
    """The cards of this machine."""

    why_none: str
    """What was looked for and not found; empty where there are cards."""
    is_asked: bool = True
    """False: a card is here, but could not be asked; `why_none` says why."""
    cards: tuple[CardFacts, ...] = ()
    torch: str | None = None
    """Version of torch that is installed, such as ``2.13.0+cpu``."""


def check(facts: GpuFacts) -> tuple[Finding, ...]:
    """Judge them."""
    if not facts.is_asked:
        return (
            Finding(
                check="nvidia-smi",
                verdict=Verdict.WARNING,
                found=facts.why_none,
                expected="an answer within seconds",
                why="its settings can't be judged; a driver that does not answer may hang "
                "inferences, too",
                mend="nvidia-smi -q   (install it from the package of the driver's own version; "
                "'sudo dmesg | grep -i xid' shows a driver's troubles)",
            ),
        )
    if not facts.cards:
        return (ok("cards", facts.why_none),)
    return (
        *_torch(facts),
        *(finding for card in facts.cards for finding in _card(card)),
    )


def _torch(facts: GpuFacts) -> Iterator[Finding]:
    if facts.torch is not None and facts.torch.endswith("+cpu"):
        yield Finding(
            check="torch",
            verdict=Verdict.WARNING,
            found=facts.torch,
            expected="a build with CUDA, since a card is here",
            why="executors started from this environment can use the cpu device only",
            mend="python -m pip install torch   (from PyPI; then tools/gpu_check)",
        )


def _card(card: CardFacts) -> Iterator[Finding]:
    yield ok(f"card {card.index}", f"{card.name}, driver {card.driver}")
    for judge in _JUDGES:
        finding = judge(card)
        yield attrs.evolve(finding, check=f"card {card.index}: {finding.check}")


def _persistence(card: CardFacts) -> Finding:
    if card.persistence != "Disabled":
        return ok("persistence mode", card.persistence or "not told")
    return Finding(
        check="persistence mode",
        verdict=Verdict.WARNING,
        found="off",
        expected="on",
        why="without a process the driver lets the card go and loses its settings, locked clocks "
        "included; the next start takes seconds longer",
        mend=f"sudo nvidia-smi -i {card.index} -pm 1",
    )


def _clocks(card: CardFacts) -> Finding:
    if card.sm_mhz is None or not card.sm_max_mhz:
        return ok("clocks", "not told by this card")
    found = f"{card.sm_mhz} of {card.sm_max_mhz} MHz"
    if card.sm_mhz >= _CLOCK_SHARE_LEAST * card.sm_max_mhz:
        return ok("clocks", f"{found}; whether they are locked shows only when the card idles")
    return Finding(
        check="clocks",
        verdict=Verdict.WARNING,
        found=f"{found}, {'busy' if card.busy_ratio else 'idle'}",
        expected="locked near a clock that the card holds under load",
        why="clocks fall when the card idles, so that the first inference after a pause takes "
        "longer than the estimate",
        mend=f"sudo nvidia-smi -i {card.index} -lgc {card.sm_max_mhz * 9 // 10}   (choose what it "
        "holds under full load: nvidia-smi dmon -s c)",
    )


def _ecc(card: CardFacts) -> Finding:
    if card.uncorrected_errors:
        return Finding(
            check="ECC",
            verdict=Verdict.PROBLEM,
            found=f"{card.uncorrected_errors} uncorrected errors of memory",
            expected="none",
            why="each one ends the process that used the memory, and its promises with it",
            mend=f"sudo nvidia-smi -i {card.index} -r   (when nothing uses it; replace the card "
            "if they come back)",
        )
    if card.ecc != "Disabled":
        return ok("ECC", card.ecc or "not told by this card")
    return Finding(
        check="ECC",
        verdict=Verdict.WARNING,
        found="off",
        expected="on",
        why="weights stay in memory for weeks: a flipped bit makes wrong answers that nobody "
        "notices",
        mend=f"sudo nvidia-smi -i {card.index} -e 1   (from the next reboot on)",
    )


def _compute_mode(card: CardFacts) -> Finding:
    mode = card.compute_mode
    if mode == "Prohibited":
        return Finding(
            check="compute mode",
            verdict=Verdict.PROBLEM,
            found=mode,
            expected="Exclusive_Process",
            why="no executor can use the card",
            mend=f"sudo nvidia-smi -i {card.index} -c EXCLUSIVE_PROCESS",
        )
    if mode != "Default":
        return ok("compute mode", mode or "not told")
    return Finding(
        check="compute mode",
        verdict=Verdict.WARNING,
        found="Default: any process may use the card",
        expected="Exclusive_Process",
        why="a second process takes turns with the executor, which no plan knows of",
        mend=f"sudo nvidia-smi -i {card.index} -c EXCLUSIVE_PROCESS",
    )


def _mig(card: CardFacts) -> Finding:
    if card.mig != "Enabled":
        return ok("MIG", card.mig or "not told by this card")
    return Finding(
        check="MIG",
        verdict=Verdict.WARNING,
        found="on: the card is cut into parts",
        expected="off",
        why="the parts share the bus and the copy engines' rate, so a neighbour's copies make "
        "LOADs longer",
        mend=f"sudo nvidia-smi -i {card.index} -mig 0   (when nothing uses it)",
    )


def _others(card: CardFacts) -> Finding:
    if len(card.executors) > 1:
        return Finding(
            check="processes",
            verdict=Verdict.PROBLEM,
            found=f"{len(card.executors)} executors: {', '.join(card.executors)}",
            expected="one",
            why="two executors on a card disturb each other's every inference; the controller "
            "plans as if each had its own",
            mend="give each a card of its own: [executor.cuda] ordinal, or CUDA_VISIBLE_DEVICES",
        )
    if not card.others:
        return ok("processes", ", ".join(card.executors) or "none")
    return Finding(
        check="processes",
        verdict=Verdict.WARNING,
        found=", ".join(card.others),
        expected="none but one executor",
        why="its kernels run between the executor's, for as long as they like",
        mend=f"stop them or move them to another card; kill {card.others[0].split()[0]} ends the "
        "first",
    )


def _link(card: CardFacts) -> Finding:
    if card.link_width is None or card.link_width_max is None:
        return ok("PCIe", "not told by this card")
    found = f"{card.link_width} of {card.link_width_max} lanes"
    if card.link_generation is not None and card.link_generation_max is not None:
        found += f", generation {card.link_generation} of {card.link_generation_max}"
    is_slow_at_work = bool(card.busy_ratio) and (card.link_generation or 0) < (
        card.link_generation_max or 0
    )
    if card.link_width >= card.link_width_max and not is_slow_at_work:
        return ok("PCIe", found)
    return Finding(
        check="PCIe",
        verdict=Verdict.WARNING,
        found=found,
        expected="all lanes, and at work the highest generation",
        why="LOADs take as much longer as the bus is slower",
        mend="sudo lspci -vv | grep LnkSta   shows where lanes are lost: another slot, a riser or "
        "the firmware's settings",
    )


_JUDGES: tuple[Callable[[CardFacts], Finding], ...] = (
    _persistence,
    _clocks,
    _ecc,
    _compute_mode,
    _mig,
    _others,
    _link,
)
