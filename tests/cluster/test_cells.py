"""Two cells behind one gateway, as processes: both serve, and one while the other is dead."""

import json
import signal
from functools import partial

import pytest
import trio

from cw.units import SECOND
from cw.workload.client import End
from tests.cluster.clusters import running, wait_until
from tests.cluster.loads import ends, kept_after, load_with, plan

pytestmark = pytest.mark.cluster

EXECUTORS = 4


@pytest.fixture(scope="module")
def halves(tmp_path_factory, mlp):
    """Run two cells of two executors each, with `tiny-mlp` ready in both."""
    folder = tmp_path_factory.mktemp("cells") / "cluster"
    shape = ("--executors", EXECUTORS, "--cells", 2)
    with running(folder, "--device", "emulated", "--profile", "fixed-2ms", *shape) as cluster:
        wait_until(lambda: executors_by_cell(cluster) == [2, 2], what="both cells have executors")
        added = cluster.cw("model", "add", "--allow-program", mlp.folder)
        assert added.returncode == 0, added.stderr
        yield cluster


def cells_of(cluster):
    """Ask for the cells; empty while nobody can be asked."""
    status = cluster.cw("status", "--json")
    return [] if status.returncode else json.loads(status.stdout)["cells"]


def executors_by_cell(cluster):
    return [len(cell["executors"]) for cell in cells_of(cluster)]


def kept_by_cell(cluster):
    return [cell["kept"] for cell in cells_of(cluster)]


def test_each_cell_has_its_own_half_of_the_executors(halves):
    """An executor of two masters would run what neither had planned around."""
    first, second = (set(cell["executors"]) for cell in cells_of(halves))

    assert first == {"executor-0", "executor-1"}
    assert second == {"executor-2", "executor-3"}


def test_burst_at_one_model_is_shared_by_both_cells(halves):
    """A cell is no wall: what everybody asks for at once must be able to use all devices."""
    before = kept_by_cell(halves)
    burst = plan(64, per_second=1_000_000)
    sent = trio.run(partial(load_with, halves, burst, at_s=0.1, incident=int, slo_ns=5 * SECOND))
    wait_until(lambda: sum(kept_by_cell(halves)) >= sum(before) + 64, what="all were settled")
    kept = [now - then for now, then in zip(kept_by_cell(halves), before, strict=True)]

    assert ends(sent)[End.KEPT.value, ""] == 64, ends(sent)
    assert min(kept) > 0, kept


def test_other_cell_serves_while_a_controller_is_dead(halves):
    """That is what a cell is for: half the devices at most are without a plan, for a second."""
    before = halves.pids

    def kill():
        halves.send_signal("controller-0", signal.SIGKILL)

    sent = trio.run(partial(load_with, halves, plan(600, per_second=150), kill, at_s=1.0))

    ended = ends(sent)
    in_time_or_refused = sum(
        count for (end, _), count in ended.items() if end in (End.KEPT.value, End.REFUSED.value)
    )
    assert in_time_or_refused == len(sent), ended
    assert kept_after(sent, 1.5) > 0.9, ended
    wait_until(lambda: executors_by_cell(halves) == [2, 2], what="its executors rejoined")
    assert halves.pids["controller-0"] != before["controller-0"]
    assert halves.pids["controller-1"] == before["controller-1"]
    epochs = [cell["epoch"] for cell in cells_of(halves)]
    assert epochs[0] > epochs[1], "only the one that died began anew"


def test_model_is_removed_from_both_cells_and_stays_away(halves, mlp):
    """One that stayed in a cell would be served by it for ever."""
    removed = halves.cw("model", "remove", "tiny-mlp")
    assert removed.returncode == 0, removed.stderr
    listed = halves.cw("model", "list", "--json")
    assert json.loads(listed.stdout)["models"] == []

    again = halves.cw("model", "add", "--allow-program", mlp.folder)
    assert again.returncode == 0, again.stderr
