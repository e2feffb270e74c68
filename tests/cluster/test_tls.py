"""A cluster with TLS at all doors and between all processes, as users and attackers find it.

It logs at DEBUG: what it writes about all this must hold neither keys nor payloads.
"""

import json
import socket
import ssl
import urllib.error
import urllib.request

import numpy as np
import pytest
import trio

from cw.client import connect_blocking
from cw.config import TlsSettings
from cw.errors import AccessDenied, PeerDisconnected
from cw.rpc import schema
from cw.rpc.kj_connection import connect
from cw.rpc.kj_shared import shared_kj
from tests.cluster.clusters import GENEROUS_S, run_cw, running

pytestmark = pytest.mark.cluster

PAYLOAD = b"payload-that-nobody-may-log"[:16]
"""As the four float32 of a sample."""
WRONG_KEY = "a-key-that-nobody-may-log"
NUMBER = 7654321.5
"""As JSON; exact in float32."""


@pytest.fixture(scope="module")
def secured(tmp_path_factory, mlp):
    folder = tmp_path_factory.mktemp("secured") / "cluster"
    options = ("--tls", "--device", "emulated", "--profile", "fixed-2ms", "--executors", 1)
    with running(folder, *options, CW_LOG="DEBUG") as cluster:
        added = cluster.cw("model", "add", "--allow-program", mlp.folder, CW_CA=ca_of(cluster))
        assert added.returncode == 0, added.stderr
        yield cluster


def ca_of(cluster):
    return str(cluster.folder / "tls" / "ca.pem")


def sample():
    return {"features": np.frombuffer(PAYLOAD, np.float32)}


def test_clients_infer_over_tls(secured):
    """The whole way: client, gateway, controller and executor, TLS on each of its parts."""
    with connect_blocking(secured.address, tls=TlsSettings(ca=ca_of(secured))) as client:
        result = client.infer("tiny-mlp", sample(), slo="5s")

    assert secured.address.startswith("tls:")
    assert result.outputs is not None, result


def ask_https(cluster, number=NUMBER, **headers):
    tensor = {"name": "features", "datatype": "FP32", "shape": [4], "data": [number] * 4}
    body = {"inputs": [tensor], "parameters": {"slo_ms": 5000}}
    request = urllib.request.Request(
        f"{cluster.ready['http'][0]}/v2/models/tiny-mlp/infer",
        json.dumps(body).encode(),
        headers,
    )
    context = ssl.create_default_context(cafile=ca_of(cluster))
    with urllib.request.urlopen(request, context=context, timeout=GENEROUS_S) as answer:
        return json.loads(answer.read())


def test_the_http_door_speaks_https(secured):
    """With the standard library's client, which checks the certificate and its host."""
    assert ask_https(secured)["outputs"]


def test_plain_http_at_the_https_port_is_told_what_to_do(secured):
    """A script with the old URL gets an answer that it can read."""
    url = secured.ready["http"][0].replace("https:", "http:")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/v2", timeout=GENEROUS_S)
    with caught.value as answer:
        assert answer.code == 400
        assert b"use https://" in answer.read()


def test_commands_say_whom_they_do_not_trust(secured, tmp_path):
    """Without the authority's file a command ends with how to name it, and with no traceback."""
    shown = run_cw("status", "--connect", secured.address, cwd=tmp_path)
    assert shown.returncode != 0
    assert "--ca" in shown.stderr
    assert "Traceback" not in shown.stderr

    trusting = run_cw("status", "--connect", secured.address, "--ca", ca_of(secured), cwd=tmp_path)
    assert trusting.returncode == 0, trusting.stderr


def test_who_has_no_certificate_of_the_cluster_is_no_part_of_it(secured):
    """Neither nobody nor a client of the doors can speak with a controller or an executor."""

    async def knock(port, tls):
        with pytest.raises(PeerDisconnected) as caught:
            async with shared_kj(), connect(f"tls:127.0.0.1:{port}", tls=tls) as connection:
                door = connection.bootstrap(schema.executor.Inference)
                with connection.errors():
                    await door.infer_request().send()
        return str(caught.value)

    cluster_ca = TlsSettings(ca=str(secured.folder / "tls" / "cluster-ca.pem"))
    door = TlsSettings(
        ca=cluster_ca.ca,
        cert=str(secured.folder / "tls" / "gateway.pem"),
        key_file=str(secured.folder / "tls" / "gateway.key"),
    )
    for name in ("controller", "executor-0"):
        port = secured.port_of(name)
        assert "asks for a certificate" in trio.run(knock, port, cluster_ca)
        assert "does not trust who signed" in trio.run(knock, port, door)


def test_nothing_of_the_cluster_listens_without_tls(secured):
    """A door forgotten is a door open: each of them is tried, by what it answers to plain bytes."""
    for name in ("controller", "executor-0", "gateway-0", "http-0"):
        with socket.create_connection(("127.0.0.1", secured.port_of(name)), GENEROUS_S) as plain:
            plain.sendall(b"\0" * 64)
            first = plain.recv(5)

        assert first[:2] == b"\x15\x03" or first == b"HTTP/", name


def test_files_of_a_cluster_hold_neither_keys_nor_payloads(secured):
    """Logs are sent around and kept for long; at DEBUG they must be as clean as ever."""
    with connect_blocking(secured.address, tls=TlsSettings(ca=ca_of(secured))) as client:
        client.infer("tiny-mlp", sample(), slo="5s")
        client.infer("tiny-mlp", {"wrong": sample()["features"]}, slo="5s")
    with pytest.raises(AccessDenied) as caught:
        with connect_blocking(secured.address, key=WRONG_KEY, tls=TlsSettings(ca=ca_of(secured))):
            pass
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask_https(secured, Authorization=f"Bearer {WRONG_KEY}")
    refused.value.close()
    ask_https(secured)

    private = (secured.folder / "tls" / "gateway.key").read_text().splitlines()[1]
    secrets = (secured.admin_key, WRONG_KEY, PAYLOAD.decode(), str(int(NUMBER)), private)
    own = {"admin.key", "gateway.key", "cluster.key"}
    searched = 0
    for path in secured.folder.rglob("*"):
        if path.is_file() and path.name not in own:
            searched += 1
            text = path.read_bytes()
            found = [secret for secret in secrets if secret.encode() in text]
            assert not found, f"{path.relative_to(secured.folder)} holds {found}"
    log = (secured.folder / "logs" / "gateway-0.log").read_text()

    assert searched > 5
    assert " DEBUG " in log, "nothing was logged at DEBUG: the test proves nothing"
    assert WRONG_KEY not in str(caught.value)
