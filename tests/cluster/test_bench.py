"""``cw bench`` when things go wrong: what was measured is printed all the same."""

import json
import re
import signal
import subprocess
from contextlib import contextmanager

import pytest

from tests.cluster.clusters import CW, GENEROUS_S, environment, wait_until

pytestmark = pytest.mark.cluster


@contextmanager
def bench(cluster, *words):
    """Run a load of 100 requests/s that nothing but the test ends in time."""
    options = ("--rate", "100", "--seconds", "600", "--json", "--connect", cluster.address)
    with subprocess.Popen(
        [*CW, "bench", *options, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()  # where the test has failed; it has ended otherwise


def kept(cluster):
    """Ask how many requests the cluster has kept so far."""
    shown = cluster.cw("status", "--json")
    return json.loads(shown.stdout)["ledger"]["kept"]


def test_an_interrupted_load_reports_what_was_answered(emulated, tmp_path):
    """And its records are written, and its status is that of an interrupted command."""
    before = kept(emulated)
    with bench(emulated, "--records", str(tmp_path / "records")) as running:
        wait_until(lambda: kept(emulated) > before, what="the load has begun")
        running.send_signal(signal.SIGINT)
        out, said = running.communicate(timeout=GENEROUS_S)

    assert running.returncode == 130, said
    report = json.loads(out)
    assert report["interrupted"]
    assert not report["gateway_lost"]
    assert report["kept"] > 0
    assert len((tmp_path / "records").read_text().splitlines()) == report["requests"]
    assert "Traceback" not in said


def test_a_load_whose_gateway_dies_reports_what_was_answered_before(shaken):
    """The connection is gone for good: the answers before it are not."""
    before = kept(shaken)
    with bench(shaken, "--closed", "4") as running:
        wait_until(lambda: kept(shaken) > before, what="the load has begun")
        shaken.send_signal("gateway-0", signal.SIGKILL)
        out, said = running.communicate(timeout=GENEROUS_S)

    assert running.returncode == 1, said
    report = json.loads(out)
    assert report["gateway_lost"]
    assert report["kept"] > 0
    assert report["failed"] == {"PeerDisconnected": 4}
    assert re.search("the gateway no longer answers: see 'cw status'", said)
    assert "Traceback" not in said


def test_a_file_that_can_not_be_written_is_told_before_the_load(emulated, tmp_path):
    """Ten minutes of load must not end in a mistyped path."""
    with bench(emulated, "--records", str(tmp_path / "none" / "records")) as running:
        _, said = running.communicate(timeout=GENEROUS_S)

    assert running.returncode == 1
    assert "check the path" in said
