"""How soon Python knows that the device has finished: by which way, and beside a busy thread."""

import ctypes
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    advise,
    fall_back,
    passed,
    spread,
)
from cw.devices.cuda.experiments.rig import Rig
from cw.units import MiB

_SAMPLES: Final = 150
_WARM_SAMPLES: Final = 5
_WORK_BYTES: Final = 64 * MiB
"""A copy of about 1.3 ms at 50 GB/s: what is waited for."""
_SWITCH_INTERVALS_S: Final = (5e-3, 5e-5)
_DELAY_US_MAX: Final = 200.0


class _Waiter:
    """A thread that waits in the driver, or on a semaphore, and tells by a queue."""

    def __init__(self, rig: Rig) -> None:
        self._rig: Final = rig
        self._orders: Final[queue.SimpleQueue[Callable[[], object]]] = queue.SimpleQueue()
        self._ended: Final[queue.SimpleQueue[None]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def wait_by(self, wait: Callable[[], object]) -> None:
        """Have the thread wait, and return when it has told."""
        self._orders.put(wait)
        self._ended.get()

    def _serve(self) -> None:
        self._rig.enter_context()
        while True:
            self._orders.get()()
            self._ended.put(None)


def run(rig: Rig) -> list[Measurement]:
    """Measure each way alone, then the thread's beside a busy one."""
    ways = _ways(rig)
    found = []
    for name, wait in ways.items():
        found += spread(name, _delays_ns(rig, wait))
    before_s = sys.getswitchinterval()
    for interval_s in _SWITCH_INTERVALS_S:
        sys.setswitchinterval(interval_s)
        with _busy_thread():
            name = _busy_name(interval_s)
            found += spread(name, _delays_ns(rig, ways["waiter thread"]))
    sys.setswitchinterval(before_s)
    return found


def _busy_name(interval_s: float) -> str:
    return f"waiter thread beside a busy one, switching every {interval_s * 1e3:g} ms"


def _ways(rig: Rig) -> dict[str, Callable[[Any, Any], None]]:
    """Return the ways to wait; each is given a stream and an event recorded at its end."""
    waiter = _Waiter(rig)
    asleep = rig.event(blocking=True, timing=False)
    libc, cuda = ctypes.CDLL(None), ctypes.CDLL("libcuda.so.1")
    semaphore = ctypes.create_string_buffer(64)
    libc.sem_init(semaphore, 0, 0)
    post = ctypes.cast(libc.sem_post, ctypes.c_void_p)
    cuda.cuLaunchHostFunc.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)

    def spin(_stream: Any, end: Any) -> None:
        rig.wait_for(end)

    def by_thread(stream: Any, _end: Any) -> None:
        rig.record(asleep, stream)
        waiter.wait_by(lambda: rig.wait_for(asleep))

    def by_semaphore(stream: Any, _end: Any) -> None:
        # A function of libc: a Python one would need the interpreter's lock on the driver's thread.
        status = cuda.cuLaunchHostFunc(int(stream), post, ctypes.addressof(semaphore))
        assert status == 0, f"cuLaunchHostFunc answers {status}"
        waiter.wait_by(lambda: libc.sem_wait(semaphore))

    return {"spinning": spin, "waiter thread": by_thread, "semaphore": by_semaphore}


def _delays_ns(rig: Rig, wait: Callable[[Any, Any], None]) -> list[int]:
    """Return how much longer than the device itself the host took to learn of the end."""
    stream, first, last = rig.stream(), rig.event(), rig.event()
    target, source = rig.plain_memory(_WORK_BYTES), rig.pinned(_WORK_BYTES)
    delays_ns = []
    for _ in range(_SAMPLES + _WARM_SAMPLES):
        rig.wait()
        begin_ns = time.perf_counter_ns()
        rig.record(first, stream)
        rig.copy_in(target, source, _WORK_BYTES, stream)
        rig.record(last, stream)
        wait(stream, last)
        wall_ns = time.perf_counter_ns() - begin_ns
        rig.wait_for(last)
        # The device's clock is coarser than the host's: the difference may be just below zero.
        delays_ns.append(max(0, wall_ns - rig.between_ns(first, last)))
    rig.call(rig.driver.cuMemFree, target)
    rig.call(rig.driver.cuMemFreeHost, source)
    return delays_ns[_WARM_SAMPLES:]


@contextmanager
def _busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def verdict(figures: Figures) -> Verdict:
    """The waiter thread if it is quick; else the semaphore, else a spinning thread."""
    thread_us, semaphore_us, spin_us = (
        figures[f"{way} p99"] for way in ("waiter thread", "semaphore", "spinning")
    )
    busy_us = figures[f"{_busy_name(_SWITCH_INTERVALS_S[-1])} p99"]
    if thread_us <= _DELAY_US_MAX:
        return passed(
            f"the waiter thread tells within {thread_us:.0f} us (p99; spinning {spin_us:.0f}, "
            f"semaphore {semaphore_us:.0f}); beside a busy thread {busy_us:.0f}"
        )
    if semaphore_us <= _DELAY_US_MAX:
        return fall_back(f"wait by a semaphore: {semaphore_us:.0f} us against {thread_us:.0f}")
    return advise(f'spin ({spin_us:.0f} us; sleeping threads {thread_us:.0f}): wait_by = "spin"')


EXPERIMENT: Final = Experiment(
    name="notify",
    question="How soon does Python know of the device's end?",
    rule=f"The waiter thread if its p99 is at most {_DELAY_US_MAX:.0f} us; else sem_post, or spin.",
    run=run,
    verdict=verdict,
    needs_torch=False,
)
