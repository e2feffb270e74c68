"""A whole cluster as one process: the same answers, and the same ends."""

import http.client
import json

import numpy as np
import pytest

from cw.client import connect_blocking
from tests.cluster.clusters import FEATURES, GENEROUS_S, run_cw, running

pytestmark = pytest.mark.cluster

EMULATED = ("--device", "emulated", "--profile", "fixed-2ms")


@pytest.fixture(scope="module")
def solo(tmp_path_factory, mlp):
    folder = tmp_path_factory.mktemp("solo") / "cluster"
    with running(folder, *EMULATED, "--solo") as cluster:
        added = cluster.cw("model", "add", "--allow-program", mlp.folder)
        assert added.returncode == 0, added.stderr
        yield cluster


def test_all_roles_are_one_process(solo):
    """Where cores are few, each process more is a wake-up more on a request's way."""
    assert sorted(solo.pids) == ["solo"]
    assert solo.ready["executors"] == 1


def test_both_doors_answer(solo):
    """Who asks can't tell whether the roles are processes of their own."""
    with connect_blocking(solo.address) as client:
        native = client.infer("tiny-mlp", FEATURES, slo="5s").unwrap()
    (url,) = solo.ready["http"]
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=GENEROUS_S)
    tensor = {"name": "features", "datatype": "FP32", "shape": [4]}
    tensor["data"] = FEATURES["features"].tolist()
    connection.request(
        "POST",
        "/v2/models/tiny-mlp/infer",
        json.dumps({"inputs": [tensor], "parameters": {"slo_ms": 5000}}),
    )
    (output,) = json.loads(connection.getresponse().read())["outputs"]
    connection.close()

    told = np.array(output["data"], np.float32)
    np.testing.assert_array_equal(told, native[output["name"]].ravel())


def test_a_load_is_answered_to_the_last_request(solo):
    """Nothing is lost between roles that hand messages over in memory."""
    bench = solo.cw("bench", "--rate", "200", "--seconds", "1", "--slo", "1s", "--json")
    found = json.loads(bench.stdout)

    assert found["kept"] == found["answers"] == found["requests"] > 100


def test_it_is_one_executor_or_none_of_it(tmp_path):
    """Two executors in one process would disturb each other; better said than done."""
    up = run_cw("devcluster", "up", *EMULATED, "--solo", "--executors", "2", "--dir", tmp_path)

    assert up.returncode == 1
    assert "expected one executor, one gateway and one cell to run as one process" in up.stderr
