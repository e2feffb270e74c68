"""Capture: work that torch sends becomes a graph, which times itself and belongs to the driver.

Not yet run on a GPU. torch routes the memory, so torch captures; but the executable is made by our
own driver, so that it can be freed alone: torch's way of freeing one graph clears workspaces that
others captured on the same stream still use (pytorch issue 193402).
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import attrs
import torch

from cw.devices.cuda.driver import CudaDriver

_SMALL_ELEMENTS: Final = 1 << 16


@attrs.frozen(kw_only=True, eq=False)
class Capture:
    """A captured graph.

    Attributes:
        graph: Torch's, with all its nodes, for looking at them; a launch does not need it.
        executable: What the driver launches, and frees.
        first: An event that its first node records.
        last: An event that its last node records.
    """

    graph: torch.cuda.CUDAGraph
    executable: int
    first: int
    last: int


def warm_up(driver: CudaDriver, work: Callable[[], object], *, stream: int, runs: int) -> None:
    """Run work before its capture: libraries load code, and allocate workspaces, at first use.

    On the stream that captures: else cuBLAS's workspace would land in the graph's own memory.
    """
    with torch.no_grad(), torch.cuda.stream(_stream(stream)):
        for _ in range(runs):
            work()
    driver.synchronize()


def capture(
    driver: CudaDriver, work: Callable[[], object], *, stream: int, pool: Any = None
) -> Capture:
    """Capture work that was warmed up.

    Args:
        driver: Whose context torch shares.
        work: Sends kernels by torch, to the current stream.
        stream: Captures, and will launch.
        pool: What `torch.cuda.graph_pool_handle` gave, to share memory with other graphs.

    Raises:
        RuntimeError: The work can't be captured, or fails.
        DeviceFault: The driver refuses.
    """
    own_stream = _stream(stream)
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with ExitStack() as undo:
        first = driver.event(timing=True)
        undo.callback(driver.drop_event, first)
        last = driver.event(timing=True)
        undo.callback(driver.drop_event, last)
        with (
            torch.no_grad(),
            # Since torch's capture leaves its stream the thread's current one when it fails.
            torch.cuda.stream(own_stream),
            # Of other threads nothing is forbidden meanwhile ("thread_local"): LOADs go on.
            torch.cuda.graph(
                graph, pool=pool, stream=own_stream, capture_error_mode="thread_local"
            ),
        ):
            driver.record_inside(first, stream)
            work()
            driver.record_inside(last, stream)
        executable = driver.instantiate(int(graph.raw_cuda_graph()))
        undo.callback(driver.drop_executable, executable)
        driver.upload(executable, stream)
        undo.pop_all()
    return Capture(graph=graph, executable=executable, first=first, last=last)


def capture_small(driver: CudaDriver, *, stream: int, pool: Any = None) -> tuple[Capture, object]:
    """Capture a graph of one small kernel, which keeps a card from falling asleep.

    Returns:
        The graph, and what has to live as long as it does.
    """
    numbers = torch.zeros(_SMALL_ELEMENTS, device="cuda")

    def work() -> None:
        torch.add(numbers, 1, out=numbers)

    warm_up(driver, work, stream=stream, runs=1)
    return capture(driver, work, stream=stream, pool=pool), numbers


def _stream(stream: int) -> Any:
    return torch.cuda.ExternalStream(stream)  # type: ignore[no-untyped-call] # torch has no types
