"""Tenants of a real cluster: apart, bounded, cut off at once, and there again after a kill."""

import http.client
import json
import signal

import numpy as np
import pytest
import trio

from cw.client import connect
from cw.errors import AccessDenied, PeerDisconnected, UnknownModel
from cw.messages import FailureKind, RefusalReason
from tests.cluster.clusters import FEATURES, GENEROUS_S, run_cw, running, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Run a cluster with two tenants, each with a model of its own, and keys to their doors."""
    from cw.models.examples.tiny import MLP

    folder = tmp_path_factory.mktemp("tenants")
    with running(folder / "cluster", "--device", "emulated", "--profile", "fixed-2ms") as cluster:
        keys = {}
        for name in ("acme", "zoo"):
            archive = MLP.pack(folder / f"{name}-model", name=f"{name}-model")
            done(cluster.cw("tenant", "add", name))
            added = ("model", "add", "--allow-program", "--tenant", name, archive.folder)
            done(cluster.cw(*added))
            keys[name] = done(cluster.cw("tenant", "key", "add", name)).stdout.strip()
        yield cluster, keys


def done(finished):
    """See that a command did what it was asked for."""
    assert finished.returncode == 0, finished.stderr
    return finished


def new_key(cluster, tenant):
    return done(cluster.cw("tenant", "key", "add", tenant)).stdout.strip()


def id_of(key):
    return key.split("_")[1]


async def ask(client, model):
    """Ask once, and say what came of it in a word."""
    result = await client.infer(model, FEATURES, slo="1s")
    if result.outputs is not None:
        return "kept"
    return (result.refusal or result.failure).message


def over_http(cluster, key, method, path, body=None):
    """Ask the HTTP door; gives status and JSON."""
    door = http.client.HTTPConnection("127.0.0.1", cluster.port_of("http-0"), timeout=GENEROUS_S)
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    door.request(method, path, body=json.dumps(body) if body else None, headers=headers)
    answer = door.getresponse()
    text = answer.read()
    door.close()
    return answer.status, json.loads(text or b"{}")


async def test_tenants_do_not_see_each_other(shared):
    """The other's model looks exactly like one that is not there: list, status, answer, error."""
    cluster, keys = shared
    async with connect(cluster.address, key=keys["acme"]) as client:
        assert await ask(client, "acme-model") == "kept"
        assert [model.spec.name for model in await client.models()] == ["acme-model"]
        seen = str(await client.status())
        assert "zoo-model" not in seen
        others = []
        for name in ("zoo-model", "xyz-model"):
            with pytest.raises(UnknownModel) as status:
                await client.model(name)
            failed = await client.tenant.infer(call_of(name))
            assert failed.failure.kind is FailureKind.UNKNOWN_MODEL
            texts = (str(status.value), failed.failure.message)
            others.append([text.replace(name, "NAME") for text in texts])
        assert others[0] == others[1]


def call_of(name):
    from cw.messages import InferCall, Tensor

    tensor = Tensor(name="features", datatype="FP32", shape=(4,), data=np.zeros(4, "<f4").tobytes())
    return InferCall(model=name, inputs=(tensor,), slo_ns=10**9)


def test_tenants_do_not_see_each_other_over_http(shared):
    """Index, metadata, configuration, statistics, readiness and inference: all answer alike."""
    cluster, keys = shared
    body = {
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [4], "data": [0, 0, 0, 0]}]
    }
    for path in ("", "/ready", "/config", "/stats", "/versions/1", "/infer"):
        asked = ("POST", body) if path == "/infer" else ("GET", None)
        found = []
        for name in ("zoo-model", "xyz-model"):
            where = f"/v2/models/{name}{path}"
            status, said = over_http(cluster, keys["acme"], asked[0], where, asked[1])
            found.append((status, json.dumps(said).replace(name, "NAME")))
        assert found[0] == found[1]
        assert found[0][0] == 404
    assert "zoo" not in json.dumps(over_http(cluster, keys["acme"], "GET", "/v2/models/stats"))
    _, index = over_http(cluster, keys["acme"], "POST", "/v2/repository/index")
    assert [entry["name"] for entry in index] == ["acme-model"]
    for key in (None, "", "garbage", keys["acme"][:-1] + "!", keys["acme"] + "0", "é" * 84):
        status, _ = over_http(
            cluster, key and key.encode().decode("latin-1"), "GET", "/v2/models/stats"
        )
        assert status == 401


async def test_no_key_and_garbage_open_nothing(shared):
    """Where tenants are told apart, nobody is nobody in particular."""
    cluster, keys = shared
    for key in ("", "garbage", "\0", "é" * 84, keys["acme"][:-1], keys["acme"].upper()):
        with pytest.raises(AccessDenied):
            async with connect(cluster.address, key=key):
                pass


async def test_a_tenants_capability_administers_nothing(shared):
    """Admin is another capability, which a tenant's key does not open."""
    cluster, keys = shared
    async with connect(cluster.address, key=keys["acme"]) as client:
        with pytest.raises(AccessDenied):
            await client.serving.admin(keys["acme"])
        for method in ("catalog", "removeModel", "allowProgram", "beginUpload"):
            assert not hasattr(client.tenant._capability, method)


async def test_a_shared_model_is_seen_and_called_until_it_is_not(shared):
    """Sharing acts on sessions that are open."""
    cluster, keys = shared
    async with connect(cluster.address, key=keys["zoo"]) as client:
        await run(cluster, "model", "share", "acme-model", "--with", "zoo")
        assert await ask(client, "acme-model") == "kept"
        await run(cluster, "model", "unshare", "acme-model", "--with", "zoo")
        with pytest.raises(UnknownModel):
            await client.model("acme-model")


async def run(cluster, *words):
    return done(await trio.to_thread.run_sync(lambda: cluster.cw(*words)))


async def test_a_revoked_key_ends_its_sessions_in_the_middle_of_a_stream(shared):
    """At once means that the next request of an open connection is not answered."""
    cluster, _ = shared
    key = await trio.to_thread.run_sync(new_key, cluster, "acme")
    kept = 0
    async with trio.open_nursery() as nursery:
        with pytest.raises((PeerDisconnected, AccessDenied)), trio.fail_after(GENEROUS_S):
            async with connect(cluster.address, key=key) as client:
                while True:
                    assert await ask(client, "acme-model") == "kept"
                    kept += 1
                    if kept == 20:
                        nursery.start_soon(run, cluster, "tenant", "key", "revoke", id_of(key))
    assert kept >= 20
    with pytest.raises(AccessDenied):
        async with connect(cluster.address, key=key):
            pass
    assert over_http(cluster, key, "GET", "/v2/models/acme-model")[0] == 401


async def test_rotation_leaves_one_key(shared):
    """The old key opens nothing from the moment that the new one is shown."""
    cluster, _ = shared
    old = await trio.to_thread.run_sync(new_key, cluster, "zoo")
    new = (await run(cluster, "tenant", "key", "rotate", id_of(old))).stdout.strip()
    async with connect(cluster.address, key=new) as client:
        assert await ask(client, "zoo-model") == "kept"
    with pytest.raises(AccessDenied):
        async with connect(cluster.address, key=old):
            pass


async def test_requests_over_the_quota_are_refused_as_such(shared):
    """`overQuota`, with when to come back; the other tenant notices nothing."""
    cluster, keys = shared
    await run(cluster, "tenant", "quota", "acme", "--requests-per-s", "2")
    try:
        async with connect(cluster.address, key=keys["acme"]) as client:
            results = [await client.infer("acme-model", FEATURES, slo="1s") for _ in range(4)]
            refused = [result.refusal for result in results if result.refusal is not None]
            assert {refusal.reason for refusal in refused} == {RefusalReason.OVER_QUOTA}
            assert 0 < refused[0].earliest_finish_ns <= 10**9
        async with connect(cluster.address, key=keys["zoo"]) as client:
            assert [await ask(client, "zoo-model") for _ in range(10)] == ["kept"] * 10
    finally:
        await run(cluster, "tenant", "quota", "acme", "--requests-per-s", "0")


def test_models_past_the_quota_are_not_added(shared, tmp_path):
    """Refused before a byte is sent, and the name stays free for others."""
    from cw.models.examples.tiny import MLP

    cluster, _ = shared
    done(cluster.cw("tenant", "quota", "zoo", "--models", "1"))
    archive = MLP.pack(tmp_path / "second", name="second")
    refused = cluster.cw("model", "add", "--tenant", "zoo", archive.folder)
    assert refused.returncode == 1
    assert "quota is 1" in refused.stderr
    assert "second" not in cluster.cw("model", "list").stdout
    done(cluster.cw("tenant", "quota", "zoo", "--models", "0"))


def test_a_backup_taken_while_it_serves_restores_into_a_fresh_cluster(shared, tmp_path):
    """The same keys open the same tenants' doors; their models come by their own way."""
    cluster, keys = shared
    backup = ("catalog", "backup", tmp_path / "backup", "--dir", cluster.folder)
    done(run_cw(*backup))
    done(run_cw("catalog", "restore", tmp_path / "backup", "--dir", tmp_path / "fresh"))
    with running(tmp_path / "fresh", "--device", "emulated", "--executors", "1") as fresh:
        listed = json.loads(done(fresh.cw("tenant", "list", "--json")).stdout)
        assert [tenant["name"] for tenant in listed["tenants"]] == ["acme", "zoo"]
        assert over_http(fresh, keys["acme"], "POST", "/v2/repository/index") == (200, [])
        assert over_http(fresh, "", "POST", "/v2/repository/index")[0] == 401


async def test_tenants_and_keys_survive_the_controllers_kill(shared):
    """While it is gone, sessions stand and a known key opens its door; then all is as it was."""
    cluster, keys = shared
    async with connect(cluster.address, key=keys["acme"]) as client:
        before = cluster.pids["controller"]
        cluster.send_signal("controller", signal.SIGKILL)
        with pytest.raises(AccessDenied):
            async with connect(cluster.address, key="cw_" + "0" * 16 + "_" + "0" * 64):
                pass
        async with connect(cluster.address, key=keys["zoo"]):
            pass  # by the directory that the gateway holds
        await trio.to_thread.run_sync(
            lambda: wait_until(
                lambda: cluster.pids.get("controller", before) != before, what="a new controller"
            )
        )
        with trio.fail_after(GENEROUS_S):
            while await ask(client, "acme-model") != "kept":
                await trio.sleep(0.05)
        with pytest.raises(UnknownModel):
            await client.model("zoo-model")
    listed = json.loads((await run(cluster, "tenant", "list", "--json")).stdout)
    assert [(tenant["name"], tenant["models"]) for tenant in listed["tenants"]] == [
        ("acme", 1),
        ("zoo", 1),
    ]
