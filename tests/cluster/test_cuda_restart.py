"""An executor whose card breaks: it ends, is started again, and its model runs as before.

The card is in software (`tests/softcuda`); executor, device, bindings and supervisor are what users
run.
"""

import sys

import numpy as np
import pytest
import trio

from cw.client import connect
from tests.cluster.clusters import FEATURES, GENEROUS_S, running, wait_until
from tests.cluster.loads import serving
from tests.softcuda.card import environment_with_card, needs_card

pytestmark = [pytest.mark.cluster, needs_card]

SETTINGS = """
[executor]
host_memory = "64MiB"
gpu_memory = "64MiB"

[executor.cuda]
hang_limit = "1s"
"""


@pytest.fixture(scope="module")
def soft_cuda(tmp_path_factory, mlp):
    """Run one cuda executor on a card in software, with `tiny-mlp` ready."""
    root = tmp_path_factory.mktemp("soft-cuda")
    (root / "settings.toml").write_text(SETTINGS)
    options = ("--device", "cuda", "--executors", "1", "--config", root / "settings.toml")
    command = (sys.executable, "-m", "tests.softcuda", "cw")
    changed = environment_with_card(SOFTCUDA_FAULT_FILE=str(root / "cluster" / "fault"))
    with running(root / "cluster", *options, command=command, **changed) as cluster:
        added = cluster.cw("model", "add", "--allow-program", mlp.folder)
        assert added.returncode == 0, added.stderr
        yield cluster


async def ask(cluster):
    async with connect(cluster.address) as client:
        return await client.infer("tiny-mlp", FEATURES, slo="5s")


@pytest.mark.parametrize("fault", ["fault", "hang"])
async def test_an_executor_whose_card_breaks_is_started_again(soft_cuda, fault):
    """Nothing in the process can be trusted then; and a card that hangs tells nothing at all."""
    await serving(soft_cuda, executors=1)
    expected = (await ask(soft_cuda)).unwrap()["scores"]
    before = soft_cuda.pids
    (soft_cuda.folder / "fault").write_text(fault)
    with trio.move_on_after(GENEROUS_S):
        await ask(soft_cuda)  # broken, or kept by the next life: what matters is that it ends

    wait_until(
        lambda: soft_cuda.pids.get("executor-0") not in (None, before["executor-0"]),
        what="executor-0 restarted",
    )
    await serving(soft_cuda, executors=1)
    with trio.fail_after(GENEROUS_S):
        again = (await ask(soft_cuda)).unwrap()["scores"]
    # Batches of other sizes, or inputs at other addresses, are rounded otherwise.
    np.testing.assert_allclose(again, expected, rtol=1e-4)
    others = {name: pid for name, pid in soft_cuda.pids.items() if name != "executor-0"}
    assert others == {name: pid for name, pid in before.items() if name != "executor-0"}
    word = {"fault": "ILLEGAL_ADDRESS", "hang": "hang_limit"}[fault]
    assert word in (soft_cuda.folder / "logs" / "executor-0.log").read_text()
