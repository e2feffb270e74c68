"""The HTTP door of a real gateway, asked by the standard library's client and by Triton's own."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import trio

from cw.client import connect, connect_blocking
from cw.devices.profile_file import SHIPPED
from tests.cluster.clusters import FEATURES, GENEROUS_S, running

pytestmark = pytest.mark.cluster

INFER = "/v2/models/tiny-mlp/infer"

TRITON = """
import sys, numpy as np
import tritonclient.http as triton
client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny-mlp")
metadata = client.get_model_metadata("tiny-mlp")
config = client.get_model_config("tiny-mlp")
assert config["max_batch_size"] == 0
tensor = metadata["inputs"][0]
for is_binary in (True, False):
    given = triton.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
    given.set_data_from_numpy(np.ones(tensor["shape"], np.float32), binary_data=is_binary)
    wanted = triton.InferRequestedOutput(metadata["outputs"][0]["name"], binary_data=is_binary)
    answer = client.infer("tiny-mlp", [given], outputs=[wanted], timeout=5_000_000)
    print(answer.as_numpy(metadata["outputs"][0]["name"]).tolist())
assert client.get_inference_statistics("tiny-mlp")["model_stats"][0]["inference_count"] >= 2
assert "tiny-mlp" in [model["name"] for model in client.get_model_repository_index()]
"""


def body(**parameters):
    tensor = {"name": "features", "datatype": "FP32", "shape": list(FEATURES["features"].shape)}
    tensor["data"] = FEATURES["features"].tolist()
    return json.dumps({"inputs": [tensor], "parameters": parameters})


@pytest.fixture
def door(emulated):
    (url,) = emulated.ready["http"]
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=GENEROUS_S)
    yield connection
    connection.close()


def ask(connection, method, target, text=None):
    connection.request(method, target, text)
    answer = connection.getresponse()
    return answer.status, answer.headers, json.loads(answer.read())


def test_both_doors_give_the_same(emulated, door):
    """What a request gets must not depend on how it was asked."""
    status, _, told = ask(door, "POST", INFER, body(slo_ms=5000))
    with connect_blocking(emulated.address) as client:
        native = client.infer("tiny-mlp", FEATURES, slo="5s")

    assert status == 200
    (output,) = told["outputs"]
    np.testing.assert_array_equal(
        np.array(output["data"], np.float32), native.outputs[output["name"]].ravel()
    )


def test_both_doors_share_batches(tmp_path, mlp):
    """Answers of one run on the device tell the same device time, to the nanosecond.

    The native client sends every 7 ms whatever comes back, so that whenever the device becomes free
    (every 20 ms) something native waits beside what came over HTTP: no rhythm can part the two.
    """
    profile = tmp_path / "fixed-20ms.toml"
    text = (SHIPPED / "fixed-2ms.toml").read_text("utf-8")
    profile.write_text(text.replace('= "2ms"', '= "20ms"').replace("fixed-2ms", "fixed-20ms"))
    options = ("--device", "emulated", "--profile", profile, "--executors", 1)
    over_http, natively = set(), set()

    def ask_over_http(url):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=GENEROUS_S)
        for _ in range(20):
            _, _, told = ask(connection, "POST", INFER, body(slo_ms=5000))
            over_http.add(round(told["parameters"]["device_ms"] * 1e6))
        connection.close()

    async def ask_natively(address):
        async def one(client):
            answer = await client.infer("tiny-mlp", FEATURES, slo="5s")
            natively.add(answer.timing.device_ns)

        async with connect(address) as client, trio.open_nursery() as nursery:
            for _ in range(80):
                nursery.start_soon(one, client)
                await trio.sleep(0.007)

    with running(tmp_path / "c", *options) as cluster:
        assert cluster.cw("model", "add", "--allow-program", mlp.folder).returncode == 0
        caller = threading.Thread(target=ask_over_http, args=(cluster.ready["http"][0],))
        caller.start()
        trio.run(ask_natively, cluster.address)
        caller.join()

    assert over_http & natively


def test_a_deadline_that_can_not_be_met_is_refused(door):
    """Too early for the answer, and perhaps for the controller's word of when it could be."""
    status, headers, told = ask(door, "POST", INFER, body(slo_ms=1.5))

    assert status == 429
    assert told["reason"] in ("deadlineTooShort", "overload")
    assert "earliest_finish_ms" in told
    assert int(headers["retry-after"]) >= 1


def test_what_is_wrong_is_said(door):
    """By the gateway's own checks, as over the native door."""
    status, _, told = ask(door, "POST", "/v2/models/other/infer", body())
    assert status == 404
    assert "other" in told["error"]

    wrong = json.loads(body())
    wrong["inputs"][0]["name"] = "pixels"
    status, _, told = ask(door, "POST", INFER, json.dumps(wrong))
    assert status == 400
    assert "features" in told["error"]


def test_a_body_that_is_too_large_is_told_so_while_it_is_sent(door):
    """A client that writes on without reading would see a broken pipe in place of the reason."""
    door.putrequest("POST", INFER)
    door.putheader("content-length", str(100 << 20))
    door.endheaders()
    for _ in range(32):
        door.send(bytes(1 << 20))
    answer = door.getresponse()

    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert "64.0 MiB" in json.loads(answer.read())["error"]


def test_the_unmodified_client_of_triton(emulated):
    """Health, metadata, requests in both forms, statistics: its own code finds what it expects."""
    python = os.environ.get("CW_TRITONCLIENT_PYTHON", sys.executable)
    found = shutil.which(python) and subprocess.run(
        [python, "-c", "import tritonclient.http"], capture_output=True, check=False
    )
    if not found or found.returncode != 0:
        pytest.skip("no tritonclient[http] here: `tox -e triton` brings one")
    (url,) = emulated.ready["http"]
    done = subprocess.run(
        [python, "-c", TRITON, url.removeprefix("http://")],
        capture_output=True,
        text=True,
        timeout=GENEROUS_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    np.testing.assert_allclose(first, second, rtol=1e-6)
