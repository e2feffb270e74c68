"""A device without hardware: it obeys a profile file, in real time or in virtual time.

For clusters of a thousand executors on one machine, and for tests. It takes as long as the profile
says and computes nothing: each output is the beginning of the request's own first input, cut or
padded with zeros to its size, so that a test can tell which request an answer belongs to. In all
else, lanes, pages, order and refusals, it is as strict as a real device.
"""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import trio
from trio.testing import MockClock

from cw.actors.clock import now_ns, trio_time
from cw.devices.device import DeviceReport, InferReport, Tensors
from cw.devices.fitting import check_fit, read_program, read_weights
from cw.devices.garbage import settle_garbage
from cw.devices.lane_thread import LaneThread, check_window, sleep_ns
from cw.devices.page_claims import PageClaims
from cw.devices.profile_file import EmulationProfile
from cw.devices.shared_timer import SharedTimer
from cw.errors import StartMissed
from cw.messages import DeviceDescription, ModelId, ModelSpec, Window
from cw.models.program_signature import ProgramSignature


class EmulatedDevice:
    """A device that obeys a profile. Made inside a Trio run, whose clock it keeps.

    Args:
        profile: What to obey.
        pages_total: Pages for weights; the profile's own number by default.
        seed: Of the jitter; the profile's own by default. Executors of one cluster are given
            different ones, or all their outliers would fall together.
        verify: Check programs and weights as a real device would. Without it no file is
            touched, so that a simulated world needs none.
        timer: Shared by the lanes of many devices in one process; by default each lane has a
            thread, which starts more precisely.
    """

    def __init__(
        self,
        profile: EmulationProfile,
        *,
        pages_total: int | None = None,
        seed: int | None = None,
        verify: bool = True,
        timer: SharedTimer | None = None,
    ) -> None:
        self._profile: Final = profile
        self._verify: Final = verify
        self._claims: Final = PageClaims(
            profile.pages_total if pages_total is None else pages_total
        )
        self._models: Final[dict[ModelId, ModelSpec]] = {}
        self._signatures: Final[dict[str, ProgramSignature | None]] = {}
        seed = profile.seed if seed is None else seed
        self._infer_lane: Final = _Lane("infer", profile, seed, timer)
        self._load_lane: Final = (
            self._infer_lane if profile.shared_lanes else _Lane("load", profile, seed, timer)
        )

    def describe(self) -> DeviceDescription:
        """Say what the profile is of."""
        fastest = self._profile.load_bytes_per_second
        return DeviceDescription(
            kind="emulated",
            name=self._profile.name,
            pages_total=self._claims.pages_total,
            shared_lanes=self._profile.shared_lanes,
            # The profile's 0 means "no time"; the planner divides by this.
            load_bytes_per_second=fastest or 10**15,
        )

    async def prepare(
        self, model: ModelSpec, program: Path, weights: Path, *, is_allowed: bool = False
    ) -> DeviceReport:
        """Take up a model; the first of its program takes longer."""
        if self._claims.knows(model.model_id):
            return await self._infer_lane.run(0)
        # Not in a thread: parsing holds the interpreter's lock, and a thread would make the
        # virtual clock of a test jump.
        if self._verify:
            signature = self._signatures.get(model.program_sha256)
            if signature is None:
                signature = read_program(model, program, is_allowed=is_allowed).signature
            check_fit(model, signature, read_weights(weights))
        else:
            signature = None
        is_first = model.program_sha256 not in self._signatures
        self._signatures[model.program_sha256] = signature
        self._models[model.model_id] = model
        self._claims.admit(model.model_id)
        if is_first:
            settle_garbage()
        profile = self._profile
        return await self._infer_lane.run(
            profile.prepare_program_ns if is_first else profile.prepare_model_ns
        )

    async def load(
        self, model_id: ModelId, pages: Sequence[int], *, window: Window | None = None
    ) -> DeviceReport:
        """Take the pages, and the time."""
        model = self._models[model_id]
        self._claims.claim(model_id, pages, model.pages)
        try:
            return await self._load_lane.run(self._profile.load_ns(model.image_bytes), window)
        except StartMissed:
            self._claims.release(model_id)
            raise

    async def unload(self, model_id: ModelId) -> None:
        """Give the pages back, in no time."""
        self._claims.release(model_id)
        await trio.lowlevel.checkpoint()

    async def infer(
        self,
        model_id: ModelId,
        batch_size: int,
        inputs: Sequence[Tensors],
        *,
        window: Window | None = None,
    ) -> InferReport:
        """Take the time, and echo."""
        model = self._models[model_id]
        assert self._claims.is_resident(model_id), f"INFER of model {model_id}, not resident"
        assert batch_size in model.batch_sizes, f"{batch_size} is not in {model.batch_sizes}"
        assert len(inputs) <= batch_size, f"{len(inputs)} inputs in a batch of {batch_size}"
        outputs = tuple(_echo(model, tensors) for tensors in inputs)
        report = await self._infer_lane.run(
            self._profile.infer_ns(model.program_sha256, batch_size), window
        )
        return InferReport(**attrs.asdict(report), outputs=outputs)

    async def forget(self, model_id: ModelId) -> None:
        """Drop a model, and its program with the last model of it."""
        self._claims.dismiss(model_id)
        program_sha256 = self._models.pop(model_id).program_sha256
        if all(model.program_sha256 != program_sha256 for model in self._models.values()):
            del self._signatures[program_sha256]
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Wait for calls in progress and close the timers."""
        with trio.CancelScope(shield=True):
            await self._infer_lane.aclose()
            await self._load_lane.aclose()


class _Lane:
    """A serial resource that is busy for as long as it is told to.

    In real time it is a thread, as a real device's lanes are, and starts as precisely. On a virtual
    clock, where nothing may wait outside the event loop, it is a lock and a sleep. With a shared
    timer it reckons when an action starts and ends, and sleeps until the end.
    """

    def __init__(
        self, name: str, profile: EmulationProfile, seed: int, timer: SharedTimer | None
    ) -> None:
        self._profile: Final = profile
        # One generator a lane: draws do not depend on how the lanes' actions interleave.
        text = f"{name} {seed}"
        self._random: Final = random.Random(hashlib.sha256(text.encode()).digest())
        self._turn: Final = trio.StrictFIFOLock()
        is_virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
        self._timer: Final = timer
        self._free_ns = 0
        self._thread: Final = (
            None if is_virtual or timer else LaneThread(name=f"{name}-lane", watch_ns=0)
        )

    async def run(self, expected_ns: int, window: Window | None = None) -> DeviceReport:
        """Be busy for about `expected_ns`, from when the lane is free and the window open.

        Raises:
            StartMissed: The window had closed by then.
        """
        device_ns = self._draw_ns(expected_ns)
        if self._timer is not None:
            start_ns, end_ns = await self._run_by(self._timer, device_ns, window)
        elif self._thread is None:
            start_ns, end_ns = await self._run_virtually(device_ns, window)
        else:
            measured = await self._thread.run(lambda: sleep_ns(device_ns), window=window)
            start_ns, end_ns = measured.report.start_ns, measured.report.end_ns
        return DeviceReport(
            start_ns=start_ns, end_ns=end_ns, device_ns=device_ns, running_ns=device_ns
        )

    async def _run_by(
        self, timer: SharedTimer, device_ns: int, window: Window | None
    ) -> tuple[int, int]:
        asked_ns = now_ns()
        with trio.CancelScope(shield=True):  # as below
            async with self._turn:
                start_ns = max(asked_ns, self._free_ns)
                if window is not None:
                    start_ns = max(start_ns, window.earliest_ns)
                    check_window(window, start_ns)
                self._free_ns = start_ns + device_ns
                await timer.sleep_until_ns(self._free_ns)
        return start_ns, start_ns + device_ns

    async def _run_virtually(self, device_ns: int, window: Window | None) -> tuple[int, int]:
        # A real device can't be stopped half-way, so neither can this one: a cancel is seen at
        # the caller's next checkpoint.
        with trio.CancelScope(shield=True):
            async with self._turn:
                if window is not None:
                    await trio.sleep_until(trio_time(window.earliest_ns))
                    check_window(window, now_ns())
                start_ns = now_ns()
                await trio.sleep_until(trio_time(start_ns + device_ns))
        return start_ns, start_ns + device_ns

    def _draw_ns(self, expected_ns: int) -> int:
        profile = self._profile
        if expected_ns == 0:
            return 0
        factor = max(0.0, self._random.gauss(1.0, profile.jitter_ratio))
        late = self._random.random() < profile.outlier_probability
        return round(expected_ns * factor) + (profile.outlier_ns if late else 0)

    async def aclose(self) -> None:
        """Wait for the actions in progress; closing twice is allowed."""
        if self._thread is not None:
            await self._thread.aclose()


def _echo(model: ModelSpec, tensors: Tensors) -> Tensors:
    head = tensors[0]
    outputs = []
    for spec in model.outputs:
        part = bytes(head[: spec.size_bytes])
        outputs.append(part + bytes(spec.size_bytes - len(part)))
    return tuple(outputs)
