"""The cuda benchmark, run from end to end on the CPU: on a GPU it must not fail by itself."""

from cw.benchmarks import cuda, models
from cw.config import ExecutorSettings
from cw.units import PAGE_BYTES
from tests.actor.device_models import soft_settings, standing_in_for_torch
from tests.softcuda.card import SoftCard, needs_card


def test_it_measures_whatever_device_it_is_given(monkeypatch):
    """Few machines have a GPU; what the benchmark does around the device can be seen on any.

    There is host memory for some twenty models: those that find no room must not be counted.
    """
    monkeypatch.setattr(cuda.models, "resnet", lambda folder: models.perceptron(folder / "first"))
    report = cuda.run(
        infers=20,
        registered=100,
        settings=ExecutorSettings(
            device="cpu", gpu_memory_bytes=4 * PAGE_BYTES, host_memory_bytes=12 * PAGE_BYTES
        ),
        copy_rate=lambda size_bytes: float(size_bytes),
    )
    found = {figure.name: figure for figure in report.figures}

    assert found["p99/p50 idle"].value >= 1
    assert found["LOAD by a plain copy's rate"].value > 0
    assert found["INFER prediction error p99"].value > 0
    beside = next(name for name in found if name.startswith("p99/p50 under"))
    assert int(beside.split()[2]) > 0
    assert 0 < found["registered models"].value < 100
    assert not found["registered models"].reached


@needs_card
def test_it_measures_a_cuda_device_from_end_to_end(monkeypatch):
    """Over a card in software, with torch's captures as shipped: its figures mean nothing there.

    The plain copy that LOADs are compared with is the driver's, in the same process.
    """
    monkeypatch.setattr(cuda.models, "resnet", lambda folder: models.perceptron(folder / "first"))
    with standing_in_for_torch():
        card = SoftCard()
        report = cuda.run(infers=20, registered=12, settings=soft_settings())
    found = {figure.name: figure for figure in report.figures}

    assert found["registered models"].value == 12
    assert found["plain pinned copy"].value > 0
    assert found["LOAD by a plain copy's rate"].value > 0
    assert "Software-card" in report.title
    assert card.hazards == []
    assert card.counts()["executables"] == 0
