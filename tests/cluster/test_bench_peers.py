"""`tools/bench_peers` from end to end, with cw alone: peers would have to be downloaded."""

import json
import os
import subprocess
import sys

import pytest

from tests.cluster.clusters import environment

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = "import sys; from cw.benchmarks.peers.command import main; sys.exit(main(sys.argv[1:]))"


def bench_peers(folder, *words):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--results", str(folder / "results.json"), *words],
        env=environment(XDG_CACHE_HOME=str(folder / "cache")),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_cw_is_measured_by_both_doors(tmp_path):
    """Models packed, bare loop run, cluster started, load sent, answers checked, all of it kept."""
    asked = ("--quick", "--cases", "1", "--peers", "cw,cw-http", "--slos", "100ms")
    said, _ = bench_peers(tmp_path, *asked, "--json")
    found = json.loads(said)

    assert found["failures"] == {}
    assert len(found["cells"]) == 2 * 3
    for name in ("cw", "cw-http"):
        calm = found["cells"][f"{name}/1/0.3/100ms"]
        assert calm["wrong"] == 0
        assert 0.5 * calm["requests"] < calm["within"]["100"] <= calm["bound"]["100"] + 1e-6
        assert found["cells"][f"{name}/1/0/any"]["added_ms"]["p50"] > 0

    table, remarks = bench_peers(tmp_path, *asked, "--markdown")
    assert "starting" not in remarks  # all of it has been measured
    assert "| cw, HTTP |" in table
