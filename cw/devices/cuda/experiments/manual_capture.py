"""Whether a stream of ours may be captured by the driver, without torch's own way."""

from typing import Final

from cw.devices.cuda.experiments.figures import (
    Experiment,
    Figures,
    Measurement,
    Verdict,
    answer,
    passed,
)
from cw.devices.cuda.experiments.rig import Rig

_SIZE: Final = 1024
_QUESTION: Final = "a capture by the driver alone replays right"


def run(rig: Rig) -> list[Measurement]:
    """Capture one product of matrices, which allocates nothing."""
    torch, driver = rig.torch, rig.driver
    stream = rig.stream()
    left, right, product = (torch.randn(_SIZE, _SIZE, device="cuda") for _ in range(3))
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    with torch.no_grad(), torch.cuda.stream(torch.cuda.ExternalStream(int(stream))):
        for _ in range(3):
            torch.mm(left, right, out=product)
        rig.wait()
        rig.call(driver.cuStreamBeginCapture, stream, mode)
        torch.mm(left, right, out=product)
        graph = rig.call(driver.cuStreamEndCapture, stream)
    executable = rig.call(driver.cuGraphInstantiate, graph, 0)
    product.zero_()
    rig.wait()
    rig.call(driver.cuGraphLaunch, executable, stream)
    rig.wait()
    close = bool(torch.allclose(product, left @ right, rtol=1e-3, atol=1e-2))
    return [answer(_QUESTION, close)]


def verdict(figures: Figures) -> Verdict:
    """Either answer leaves the device as it is: it captures by torch, whose pools it needs."""
    possible = "works, too" if figures.holds(_QUESTION) else "does not work"
    return passed(f"captures go through torch; one by the driver alone {possible}")


EXPERIMENT: Final = Experiment(
    name="manual_capture",
    question="Could captures do without torch.cuda.graph?",
    rule="Captures go through torch in any case: memory pools are its own.",
    run=run,
    verdict=verdict,
)
