"""The demo: what a newcomer runs first must work, be brief, and leave nothing behind."""

import json
import signal
import subprocess
import time

import pytest

from tests.cluster.clusters import CW, GENEROUS_S, environment, processes_of, run_cw, wait_until

pytestmark = pytest.mark.cluster

KEYS = {"requests", "answers", "kept", "refused", "broken", "failed", "wrong", "models"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_answers_rightly_and_reports(tmp_path):
    """Two trained models, real inputs, every output compared with torch's own."""
    result = run_cw("devcluster", "demo", "--json", timeout=280, TMPDIR=str(tmp_path))

    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report.keys() >= KEYS
    assert report["wrong"] == 0
    assert report["requests"] == report["answers"] > 0
    ends = sum(report["refused"].values()) + report["broken"] + sum(report["failed"].values())
    assert report["kept"] + ends == report["requests"]
    assert report["kept"] > 0.9 * report["requests"]
    assert report["models"].keys() == {"minilm", "efficientnet-lite0"}
    for model in report["models"].values():
        assert model.keys() >= {"requests", "kept", "refused", "broken", "latency_ms"}
        assert model["latency_ms"]["p50"] <= model["latency_ms"]["p99"]
    assert "every output equals that of torch" in result.stderr
    assert list(tmp_path.glob("cw-demo-*")) == []


def test_ctrl_c_ends_the_demo(tmp_path):
    """Whoever has seen enough gets the terminal back, and the machine as it was."""
    process = subprocess.Popen(
        [*CW, "devcluster", "demo"],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def children():
        folders = [path / "cluster" for path in tmp_path.glob("cw-demo-*")]
        return {pid for folder in folders for pid in processes_of(folder)}

    wait_until(children, what="the demo's cluster")
    folder = next(tmp_path.glob("cw-demo-*")) / "cluster"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=GENEROUS_S)

    assert process.returncode == 130
    assert time.monotonic() - begin < 10
    assert out == ""
    assert "Traceback" not in errors
    assert processes_of(folder) == {}
    assert not folder.exists()
