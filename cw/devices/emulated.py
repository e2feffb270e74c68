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

from cw.actors.clock import PreciseTimer, now_ns
from cw.devices.device import DeviceReport, InferReport, Tensors
from cw.devices.fitting import check_fit, read_program, read_weights
from cw.devices.page_claims import PageClaims
from cw.devices.profile_file import EmulationProfile
from cw.errors import StartMissed
from cw.messages import DeviceDescription, ModelId, ModelSpec, Window
from cw.models.program_signature import ProgramSignature
from cw.units import format_ms


class EmulatedDevice:
    """A device that obeys a profile. Made inside a Trio run, whose clock it keeps.

    Args:
        profile: What to obey.
        pages_total: Pages for weights; the profile's own number by default.
        seed: Of the jitter; the profile's own by default. Executors of one cluster are given
            different ones, or all their outliers would fall together.
        verify: Check programs and weights as a real device would. Without it no file is
            touched, so that a simulated world needs none.
    """

    def __init__(
        self,
        profile: EmulationProfile,
        *,
        pages_total: int | None = None,
        seed: int | None = None,
        verify: bool = True,
    ) -> None:
        self._profile: Final = profile
        self._verify: Final = verify
        self._claims: Final = PageClaims(
            profile.pages_total if pages_total is None else pages_total
        )
        self._models: Final[dict[ModelId, ModelSpec]] = {}
        self._signatures: Final[dict[str, ProgramSignature | None]] = {}
        seed = profile.seed if seed is None else seed
        self._infer_lane: Final = _Lane(profile, f"infer {seed}")
        self._load_lane: Final = (
            self._infer_lane if profile.shared_lanes else _Lane(profile, f"load {seed}")
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

    async def prepare(self, model: ModelSpec, program: Path, weights: Path) -> DeviceReport:
        """Take up a model; the first of its program takes longer."""
        if self._claims.knows(model.model_id):
            return await self._infer_lane.run(0)
        # Not in a thread: parsing holds the interpreter's lock, and a thread would make the
        # virtual clock of a test jump.
        if self._verify:
            signature = self._signatures.get(model.program_sha256)
            if signature is None:
                signature = read_program(model, program).signature
            check_fit(model, signature, read_weights(weights))
        else:
            signature = None
        is_first = model.program_sha256 not in self._signatures
        self._signatures[model.program_sha256] = signature
        self._models[model.model_id] = model
        self._claims.admit(model.model_id)
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
    """A serial resource: one action at a time, in the order of their coming."""

    def __init__(self, profile: EmulationProfile, seed: str) -> None:
        self._profile: Final = profile
        # One generator a lane: draws do not depend on how the lanes' actions interleave.
        self._random: Final = random.Random(hashlib.sha256(seed.encode()).digest())
        self._turn: Final = trio.StrictFIFOLock()
        self._timer: Final = PreciseTimer()
        self._timer.__enter__()
        self._closed = False

    async def run(self, expected_ns: int, window: Window | None = None) -> DeviceReport:
        """Be busy for about `expected_ns`, from when the lane is free and the window open.

        Raises:
            StartMissed: The window had closed by then.
        """
        # A real device can't be stopped half-way, so neither can this one: a cancel is seen at
        # the caller's next checkpoint.
        with trio.CancelScope(shield=True):
            async with self._turn:
                assert not self._closed, "a call to a device that was closed"
                if window is not None:
                    await self._timer.sleep_until_ns(window.earliest_ns)
                start_ns = now_ns()
                if window is not None and start_ns > window.latest_ns:
                    raise StartMissed(
                        f"expected a start {format_ms(start_ns - window.latest_ns)} earlier: the "
                        "actions before it took too long"
                    )
                device_ns = self._draw_ns(expected_ns)
                await self._timer.sleep_until_ns(start_ns + device_ns)
                end_ns = max(now_ns(), start_ns + device_ns)
        return DeviceReport(
            start_ns=start_ns, end_ns=end_ns, device_ns=device_ns, running_ns=device_ns
        )

    def _draw_ns(self, expected_ns: int) -> int:
        profile = self._profile
        if expected_ns == 0:
            return 0
        factor = max(0.0, self._random.gauss(1.0, profile.jitter_ratio))
        late = self._random.random() < profile.outlier_probability
        return round(expected_ns * factor) + (profile.outlier_ns if late else 0)

    async def aclose(self) -> None:
        """Wait for the action in progress; closing twice is allowed."""
        async with self._turn:
            if not self._closed:
                self._closed = True
                self._timer.__exit__(None, None, None)


def _echo(model: ModelSpec, tensors: Tensors) -> Tensors:
    head = tensors[0]
    outputs = []
    for spec in model.outputs:
        part = bytes(head[: spec.size_bytes])
        outputs.append(part + bytes(spec.size_bytes - len(part)))
    return tuple(outputs)
