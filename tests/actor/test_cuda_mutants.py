"""The tests of the cuda device, tested: each fence is taken out of a copy, and a test must fail.

Each mutant names the one test that is to catch it, so that a test which no longer can is noticed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tests.softcuda.card import needs_card

pytestmark = needs_card

ROOT = Path(__file__).parents[2]
COPIED = ("cw", "tests", "schemas", "pyproject.toml")

ORDERS = "tests/actor/test_cuda_orders.py"
DEVICE = "tests/actor/test_cuda_device.py"
FAULTS = "tests/actor/test_cuda_faults.py"
TORCH = "tests/actor/test_torch_graphs.py"
PAGES = "tests/unit/test_cuda_pages.py"


@attrs.frozen
class Mutant:
    """One line less, or another one."""

    name: str
    file: str
    before: str
    after: str
    caught_by: str


MUTANTS = (
    Mutant(
        "a page is unmapped before its last INFER has ended",
        "pages.py",
        "self._pool.driver.wait(self.fence)",
        "pass",
        f"{PAGES}::test_no_order_of_loads_maps_a_page_twice_or_before_its_fence",
    ),
    Mutant(
        "an INFER leaves no fence",
        "device.py",
        "model.range.fence = parts.done",
        "pass",
        f"{DEVICE}::test_unload_touches_nothing_and_the_same_pages_need_no_edit",
    ),
    Mutant(
        "a LOAD ends before its copies",
        "copies.py",
        "        driver.wait(self._last)\n"
        "        return driver.between_ns(self._first, self._last)",
        "        return 1",
        f"{ORDERS}::test_no_order_of_actions_is_a_hazard",
    ),
    Mutant(
        "a LOAD's pieces are sent all at once",
        "copies.py",
        "                driver.wait(event)",
        "                pass",
        f"{DEVICE}::test_a_load_has_few_pieces_with_the_card",
    ),
    Mutant(
        "an INFER ends before its graph",
        "device.py",
        "        driver.record(parts.done, stream)\n        driver.wait(parts.done)\n"
        "        return driver.between_ns(graph.first, graph.last)",
        "        driver.record(parts.done, stream)\n        return 1",
        f"{ORDERS}::test_no_order_of_actions_is_a_hazard",
    ),
    Mutant(
        "pages are edited beside a running INFER",
        "device.py",
        "            with self._turns.turn():\n                model.range.map(pages)",
        "            model.range.map(pages)",
        f"{DEVICE}::test_pages_are_edited_between_infers_unless_allowed",
    ),
    Mutant(
        "an INFER begins beside an edit of pages",
        "device.py",
        "            with self._turns.turn() if self._edits_wait else nullcontext():\n"
        "                device_ns",
        "            if True:\n                device_ns",
        f"{DEVICE}::test_pages_are_edited_between_infers_unless_allowed",
    ),
    Mutant(
        "the pages of a capture are taken before it has run",
        "device.py",
        "            parts.driver.synchronize()\n            page_range.unmap_zeros()",
        "            page_range.unmap_zeros()",
        f"{DEVICE}::test_a_capture_keeps_its_pages_until_it_has_run",
    ),
    Mutant(
        "the page of zeros is taken before it is written",
        "opening.py",
        "    driver.synchronize()\n    trial.unmap_zeros()",
        "    trial.unmap_zeros()",
        f"{DEVICE}::test_all_that_was_made_is_freed",
    ),
    Mutant(
        "a page is mapped over another",
        "pages.py",
        "                self.vacate(index)\n            self._map_one",
        "                pass\n            self._map_one",
        f"{PAGES}::test_no_order_of_loads_maps_a_page_twice_or_before_its_fence",
    ),
    Mutant(
        "a page stays where it lay",
        "pages.py",
        "            before[0].vacate(before[1])",
        "            pass",
        f"{PAGES}::test_no_order_of_loads_maps_a_page_twice_or_before_its_fence",
    ),
    Mutant(
        "pages are mapped without access",
        "pages.py",
        "        if missing:\n            self._pool.driver.allow_access",
        "        if False:\n            self._pool.driver.allow_access",
        f"{DEVICE}::test_all_that_was_made_is_freed",
    ),
    Mutant(
        "a missed LOAD keeps its pages",
        "device.py",
        "        except StartMissed:\n"
        "            self._claims.release(model_id)\n"
        "            raise",
        "        except StartMissed:\n            raise",
        f"{ORDERS}::test_no_order_of_actions_is_a_hazard",
    ),
    Mutant(
        "a forgotten model's graphs stay",
        "device.py",
        "            self._parts.maker.drop(graph)",
        "            pass",
        f"{DEVICE}::test_a_forgotten_models_graphs_are_freed",
    ),
    Mutant(
        "a refused model's addresses stay",
        "device.py",
        "            undo.callback(page_range.release)\n",
        "",
        f"{FAULTS}::test_no_room_for_a_model_is_no_fault_and_leaves_nothing",
    ),
    Mutant(
        "a forgotten program stays",
        "device.py",
        "settle_garbage(anew=self._has_dropped_programs)",
        "settle_garbage()",
        f"{TORCH}::test_a_program_goes_with_its_last_model",
    ),
    Mutant(
        "torch's graph keeps its nodes",
        "torch_graphs.py",
        "        self._driver.empty(int(captured.graph.raw_cuda_graph()))\n",
        "",
        f"{TORCH}::test_a_forgotten_models_graphs_and_their_nodes_are_freed",
    ),
    Mutant(
        "a program's code stays the host's",
        "torch_graphs.py",
        "        inner.recompile()\n",
        "",
        f"{TORCH}::test_what_a_program_makes_by_itself_is_made_on_the_card",
    ),
    Mutant(
        "a card that hangs is waited for",
        "watchdog.py",
        "        lane.give_up(",
        "        str(",
        f"{FAULTS}::test_a_card_that_never_finishes_is_a_fault_within_a_bound",
    ),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("mutants")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root


def run(copy, test):
    pytest_quick = (sys.executable, "-m", "pytest", "-q", "-x", "--timeout", "30")
    return subprocess.run(
        [*pytest_quick, "-p", "no:cacheprovider", test],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_is_taken_out_is_missed(copy, mutant):
    """A fence that no test needs would be lost at the next change."""
    path = copy / "cw" / "devices" / "cuda" / mutant.file
    text = path.read_text()
    assert text.count(mutant.before) == 1, f"{mutant.file}: not once: {mutant.before!r}"
    path.write_text(text.replace(mutant.before, mutant.after))
    try:
        done = run(copy, mutant.caught_by)
    finally:
        path.write_text(text)

    assert done.returncode != 0, f"{mutant.caught_by} passes without it"
    assert "no tests ran" not in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_missed_where_nothing_was_taken_out(copy):
    """The copy itself passes, or every mutant would be caught by chance."""
    for test in sorted({mutant.caught_by for mutant in MUTANTS}):
        done = run(copy, test)
        assert done.returncode == 0, done.stdout[-3000:]
