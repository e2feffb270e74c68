"""Profiles: how long things take, learnt from what was measured, as bounds to plan with.

The concept: a duration is known per (program, batch size, kind of device) as a sliding window of
measurements (`durations.py`), and the *estimate* is a high quantile of it. Of these a `CostTable`
says what a batch of any count costs. LOADs are learnt likewise, per kind of device and size in
bytes.

Knows nothing of models, queues or time of day. Neighbours: `scheduler.py` feeds it from
`ActionResult`; `plan.py` and `admission.py` read `CostTable.by_count`.

Source: Clockwork (OSDI 2020) section 5.3 plans with the 99th percentile of the last 10.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, NewType

import attrs

from cw.core.durations import DurationWindow
from cw.messages import ActionResult, DeviceDescription, ProfileEntry
from cw.units import MS, SECOND

DeviceKey = NewType("DeviceKey", tuple[str, str])
"""Equal devices (kind, name) share their profiles."""

STOLEN_NS_PER_RUNNING_NS: Final = 1
"""At most so much, for each nanosecond of its running time, is believed to be lost in an ordinary
run: a device thread that shares its core and its interpreter with a busy event loop loses up to a
half of every run."""
UNKNOWN_NS: Final = 20 * MS
"""Planned for one sample of a program that was never measured anywhere."""
LOAD_OVERHEAD_NS: Final = MS
"""Added to a LOAD's first guess, made of the bytes alone."""


def device_key(device: DeviceDescription) -> DeviceKey:
    """Say with which other devices a device shares its profiles."""
    return DeviceKey((device.kind, device.name))


def own_ns(result: ActionResult) -> int:
    """Say how long a batch took by its own doing, for its profile.

    What the executor's other threads take away in every run is part of what a batch costs. A run
    that lost much more than that says nothing of its model, and planning with it would refuse for
    minutes what a stall of milliseconds could have broken: it counts as if it had lost a half.
    """
    return min(result.device_ns, result.running_ns * (1 + STOLEN_NS_PER_RUNNING_NS))


@attrs.frozen(kw_only=True)
class MeasuredDurations:
    """What was measured of one batch size of a program on a kind of device; oldest first, ns."""

    program_sha256: str
    device: DeviceKey
    batch_size: int
    durations_ns: tuple[int, ...]


@attrs.define(eq=False)
class CostTable:
    """What a batch of n costs on one kind of device: the table that all planning reads."""

    batch_sizes: tuple[int, ...]
    windows: dict[int, DurationWindow]
    by_count: list[int] = attrs.field(factory=list)
    """Index n: the estimate (ns) of a batch of n requests, padded up. Index 0 is 0."""
    typical_by_count: list[int] = attrs.field(factory=list)
    """Index n: what such a batch takes when it is one of many; never above `by_count`."""
    size_for: list[int] = attrs.field(factory=list)
    """Index n: the captured size that runs n requests."""
    runs_whole: list[bool] = attrs.field(factory=list)
    """Index n: whether padding n up costs no more, for each, than a batch of the size below."""
    largest: int = attrs.field(init=False)
    """The most requests that one batch holds."""

    def __attrs_post_init__(self) -> None:
        self.largest = self.batch_sizes[-1]
        self.refresh()

    def density_ns(self, overhead_ns: int) -> float:
        """What a request costs at best, in the densest batch; `overhead_ns` is each batch's."""
        return min((self.by_count[size] + overhead_ns) / size for size in self.batch_sizes)

    def densest(self, least: int, most: int) -> int:
        """Say which of `least` to `most` requests make the batch that serves most for its time."""
        best, by_count = least, self.by_count
        most = min(most, self.largest)
        if most <= least:
            return least
        for size in self.batch_sizes:
            if size > least:
                count = min(size, most)
                if count * by_count[best] >= best * by_count[count]:
                    best = count
                if size >= most:
                    break
        return best

    @property
    def known(self) -> bool:
        """Whether every batch size was measured."""
        return all(len(self.windows[size]) for size in self.batch_sizes)

    def below(self, count: int) -> int:
        """Say what is the largest captured size under `count`; 0 if there is none."""
        index = bisect_left(self.batch_sizes, count)
        return self.batch_sizes[index - 1] if index else 0

    def refresh(self) -> None:
        """Bring the table in step with its windows, after an estimate moved."""
        costs = self._cost_per_size()
        # Padding further up is right when a larger size happens to be measured faster.
        cheapest, best = {}, self.largest
        for size in reversed(self.batch_sizes):
            best = cheapest[size] = size if costs[size] <= costs[best] else best
        by_count, typical_by_count, size_for = [0], [0], [0]
        for size in self.batch_sizes:
            best, counts = cheapest[size], size + 1 - len(by_count)
            typical_ns = min(costs[best], self.windows[best].typical_ns or costs[best])
            by_count += [costs[best]] * counts
            typical_by_count += [typical_ns] * counts
            size_for += [best] * counts
        self.by_count, self.typical_by_count, self.size_for = by_count, typical_by_count, size_for
        self.runs_whole = [
            size_for[count] == count
            or self.below(count) * by_count[count] <= count * by_count[self.below(count)]
            for count in range(len(by_count))
        ]

    def _cost_per_size(self) -> dict[int, int]:
        measured = {size: self.windows[size].estimate_ns for size in self.batch_sizes}
        known = [(size, ns) for size, ns in measured.items() if ns]
        costs = {}
        for size, estimate_ns in measured.items():
            if estimate_ns:
                costs[size] = estimate_ns
            elif known:
                # In proportion to the nearest measured size: too high, since batching pays.
                near, near_ns = min(known, key=lambda entry: abs(entry[0] - size))
                costs[size] = max(near_ns, near_ns * size // near)
            else:
                costs[size] = UNKNOWN_NS * size
        return costs


@attrs.define(eq=False)
class Profiles:
    """Every measured duration of the cluster."""

    window: int = 200
    quantile: float = 0.99
    _tables: dict[tuple[str, tuple[int, ...], DeviceKey], CostTable] = attrs.field(factory=dict)
    _windows: dict[tuple[str, int, DeviceKey], DurationWindow] = attrs.field(factory=dict)
    _tables_of: dict[tuple[str, DeviceKey], list[CostTable]] = attrs.field(factory=dict)
    _loads: dict[tuple[DeviceKey, int], DurationWindow] = attrs.field(factory=dict)
    _load_rates: dict[DeviceKey, DurationWindow] = attrs.field(factory=dict)

    def costs(self, program: str, batch_sizes: tuple[int, ...], device: DeviceKey) -> CostTable:
        """Find (or begin) the table of a program on a kind of device.

        Args:
            program: The program's sha256; weights do not change how long it takes.
            batch_sizes: Captured sizes, ascending, the first 1.
            device: Of `device_key`.
        """
        key = (program, batch_sizes, device)
        table = self._tables.get(key)
        if table is None:
            windows = {size: self._window(program, size, device) for size in batch_sizes}
            table = self._tables[key] = CostTable(batch_sizes, windows)
            self._tables_of.setdefault((program, device), []).append(table)
        return table

    def learn_infer(
        self, program: str, batch_size: int, device: DeviceKey, duration_ns: int
    ) -> None:
        """Learn one measured INFER (device time, ns)."""
        if self._window(program, batch_size, device).add(duration_ns):
            self._refresh(program, device)

    def learn_batch(
        self, costs: CostTable, program: str, batch_size: int, device: DeviceKey, duration_ns: int
    ) -> None:
        """Learn one measured INFER as `learn_infer` does, its table being at hand."""
        if costs.windows[batch_size].add(duration_ns):
            self._refresh(program, device)

    def correct_infer(
        self, program: str, batch_size: int, device: DeviceKey, durations_ns: list[int]
    ) -> None:
        """Learn INFERs that were run only because the estimate is in doubt."""
        if self._window(program, batch_size, device).correct(durations_ns):
            self._refresh(program, device)

    def _refresh(self, program: str, device: DeviceKey) -> None:
        for table in self._tables_of.get((program, device), ()):
            table.refresh()

    def measured(self) -> list[MeasuredDurations]:
        """Give away all that is known of INFERs, for a later controller to begin with."""
        return [
            MeasuredDurations(
                program_sha256=program,
                device=device,
                batch_size=size,
                durations_ns=tuple(window.recent),
            )
            for (program, size, device), window in self._windows.items()
            if len(window)
        ]

    def restore(self, measured: Iterable[MeasuredDurations]) -> None:
        """Take over what an earlier controller knew."""
        for entry in measured:
            durations_ns = entry.durations_ns[-self.window :]
            self.seed(entry.program_sha256, entry.batch_size, entry.device, durations_ns)

    def seed(
        self, program: str, batch_size: int, device: DeviceKey, durations_ns: Iterable[int]
    ) -> None:
        """Take over measurements of one batch size, oldest first."""
        for duration_ns in durations_ns:
            self.learn_infer(program, batch_size, device, duration_ns)

    def learn_load(self, device: DeviceKey, size_bytes: int, duration_ns: int) -> None:
        """Learn one measured LOAD of `size_bytes`."""
        window = self._loads.get((device, size_bytes))
        if window is None:
            window = self._loads[device, size_bytes] = self._new_window()
        window.add(duration_ns)
        rates = self._load_rates.get(device)
        if rates is None:
            rates = self._load_rates[device] = self._new_window()
        # Picoseconds per byte: at 64 GB/s a byte takes a sixtieth of a nanosecond.
        rates.add(duration_ns * 1000 // max(1, size_bytes))

    def load_ns(self, device: DeviceDescription, size_bytes: int) -> int:
        """Bound a LOAD: by its own size's measurements, by others', or by the device's word."""
        key = device_key(device)
        window = self._loads.get((key, size_bytes))
        if window is not None:
            return window.estimate_ns
        rates = self._load_rates.get(key)
        if rates is not None:
            return rates.estimate_ns * size_bytes // 1000 + LOAD_OVERHEAD_NS
        rate = max(1, device.load_bytes_per_second)
        return size_bytes * SECOND // rate + LOAD_OVERHEAD_NS

    def typical_load_ns(self, device: DeviceDescription, size_bytes: int) -> int:
        """Say what a LOAD takes when it is one of many; never above its bound."""
        bound_ns = self.load_ns(device, size_bytes)
        window = self._loads.get((device_key(device), size_bytes))
        return min(bound_ns, window.typical_ns) if window is not None else bound_ns

    def entries(
        self, program: str, batch_sizes: tuple[int, ...], device: DeviceKey
    ) -> tuple[ProfileEntry, ...]:
        """Show what was measured of a program on a kind of device."""
        table = self.costs(program, batch_sizes, device)
        return tuple(
            ProfileEntry(
                batch_size=size,
                samples=len(window),
                p50_ns=window.at(0.5),
                p99_ns=window.at(0.99),
                max_ns=window.at(1.0),
                estimate_ns=table.by_count[size],
            )
            for size, window in table.windows.items()
            if len(window)
        )

    def _new_window(self) -> DurationWindow:
        return DurationWindow(self.window, self.quantile)

    def _window(self, program: str, batch_size: int, device: DeviceKey) -> DurationWindow:
        key = (program, batch_size, device)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = self._new_window()
        return window
