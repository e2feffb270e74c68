"""What strangers send: each is told what was expected and what came, and nobody else notices."""

import os
import socket
import struct
import zlib

import numpy as np
import pytest
import trio

from cw.client import connect, connect_blocking
from cw.errors import AccessDenied, RequestInvalid, UnknownModel
from cw.messages import FailureKind
from cw.units import MiB
from tests.cluster.clusters import FEATURES, wait_until

pytestmark = pytest.mark.cluster

GOOD = FEATURES["features"]


@pytest.fixture(autouse=True)
def unharmed(emulated):
    """After each test, the same processes serve a good request."""
    before = emulated.pids
    yield
    with connect_blocking(emulated.address) as client:
        outputs = client.infer("tiny-mlp", FEATURES, slo="5s").unwrap()
    assert outputs["scores"].tolist() == GOOD[:3].tolist()
    assert emulated.pids == before


WRONG_CALLS = [
    ("no-such", {"features": GOOD}, FailureKind.UNKNOWN_MODEL, ["'no-such'", "tiny-mlp"]),
    ("", {"features": GOOD}, FailureKind.UNKNOWN_MODEL, ["''", "cw model list"]),
    ("tiny-mlp", {}, FailureKind.INVALID_INPUT, ["expected the inputs features", "got none"]),
    ("tiny-mlp", {"feature": GOOD}, FailureKind.INVALID_INPUT, ["inputs features", "got feature"]),
    (
        "tiny-mlp",
        {"features": GOOD, "more": GOOD},
        FailureKind.INVALID_INPUT,
        ["got features, more"],
    ),
    ("tiny-mlp", {"features": GOOD[:3]}, FailureKind.INVALID_INPUT, ["shape [4]", "got [3]"]),
    (
        "tiny-mlp",
        {"features": GOOD[None]},
        FailureKind.INVALID_INPUT,
        ["without a batch dimension", "got [1, 4]"],
    ),
    ("tiny-mlp", {"features": np.float32(1)}, FailureKind.INVALID_INPUT, ["got []"]),
    (
        "tiny-mlp",
        {"features": np.empty(0, np.float32)},
        FailureKind.INVALID_INPUT,
        ["got [0]"],
    ),
    (
        "tiny-mlp",
        {"features": GOOD.astype(np.float64)},
        FailureKind.INVALID_INPUT,
        ["expected datatype FP32", "'FP64'"],
    ),
    ("x" * 100_000, {"features": GOOD}, FailureKind.UNKNOWN_MODEL, ["no model is named"]),
    ("tiny-mlp", {"y" * 100_000: GOOD}, FailureKind.INVALID_INPUT, ["inputs features"]),
]


@pytest.mark.parametrize(("model", "inputs", "kind", "said"), WRONG_CALLS)
async def test_a_call_that_does_not_fit_the_model(emulated, model, inputs, kind, said):
    """The commonest mistakes; the answer must be enough to mend them."""
    async with connect(emulated.address) as client:
        result = await client.infer(model, inputs, slo="1s")

    assert result.failure is not None
    assert result.failure.kind is kind
    assert not result.promised
    assert len(result.failure.message) < 1000
    for part in said:
        assert part in result.failure.message


@pytest.mark.parametrize("slo", [0, -1, -(10**9), 1, "0ms", "1us", "601s", "10h", 2**62])
async def test_an_slo_out_of_bounds(emulated, slo):
    """It is a mistake in units: served anyway, it would break promises or hold memory for hours."""
    async with connect(emulated.address) as client:
        result = await client.infer("tiny-mlp", FEATURES, slo=slo)

    assert result.failure is not None
    assert result.failure.kind is FailureKind.INVALID_SLO
    assert "expected an SLO between 1.00 ms and 600000 ms" in result.failure.message


@pytest.mark.parametrize(
    "slo", ["nan", "-5ms", "", "100", "soon", "1e3ms", float("nan"), 0.1, True, 10**30]
)
async def test_an_slo_that_is_no_duration(emulated, slo):
    """A number of seconds, or NaN from a division, must not get as far as a deadline."""
    async with connect(emulated.address) as client:
        with pytest.raises(RequestInvalid, match="expected an SLO"):
            await client.infer("tiny-mlp", FEATURES, slo=slo)


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.zeros(4, np.complex64),
        np.array(["a", "b"]),
        np.array(["2020-01-01"], "datetime64[D]"),
        [[1.0], [2.0, 3.0]],
        None,
    ],
)
async def test_an_array_that_the_wire_can_not_carry(emulated, array):
    """Told at the caller's own line, before anything is sent."""
    async with connect(emulated.address) as client:
        with pytest.raises(RequestInvalid, match="input 'features': expected"):
            await client.infer("tiny-mlp", {"features": array}, slo="1s")


async def test_a_payload_over_the_limit(emulated):
    """It ends with words for its sender; others on the same connection go on."""
    async with connect(emulated.address) as client:
        with pytest.raises(RequestInvalid, match="at most"):
            await client.infer("tiny-mlp", {"features": np.zeros(80 * MiB, np.uint8)}, slo="5s")
        assert (await client.infer("tiny-mlp", FEATURES, slo="1s")).outputs is not None


async def test_arrays_of_other_layouts_are_served(emulated):
    """Strides and byte order are numpy's affair, not the model's."""
    strided = np.arange(8, dtype=np.float32)[::2]
    async with connect(emulated.address) as client:
        for array in (strided, strided.astype(">f4"), strided.tolist()):
            inputs = {"features": np.asarray(array, getattr(array, "dtype", np.float32))}
            result = await client.infer("tiny-mlp", inputs, slo="5s")
            assert result.unwrap()["scores"].tolist() == [0, 2, 4]


async def test_a_wrong_key_opens_nothing(emulated):
    """And the message says where the right one is to be found."""
    async with connect(emulated.address) as client:
        for key in ("", "guess", emulated.admin_key[:-1], "\0", "ü" * 1000):
            with pytest.raises(AccessDenied, match=r"admin\.key"):
                await client.serving.admin(key)
    with pytest.raises(AccessDenied, match="this key opens nothing here"):
        async with connect(emulated.address, key="guess"):
            pass


async def test_a_model_that_is_not_there_can_neither_be_shown_nor_removed(emulated):
    """The same words wherever the name is given."""
    async with connect(emulated.address) as client:
        admin = await client.serving.admin(emulated.admin_key)
        with pytest.raises(UnknownModel, match="cw model list"):
            await client.model("no-such")
        with pytest.raises(UnknownModel, match="cw model list"):
            await admin.remove_model("../../admin.key")


# --- raw sockets ----------------------------------------------------------------------------------

GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS greeting
    b"\xff" * 65536,
    bytes(65536),
    struct.pack("<II", 0, 2**29 - 1),  # one segment of 4 GiB
    struct.pack("<I", 2**32 - 1),  # as many segments as there are numbers
    struct.pack("<II", 0, 1) + b"\xff" * 8,  # a root pointer to nowhere
    bytes(zlib.crc32(bytes([i])) % 256 for i in range(256)) * 256,
]


@pytest.mark.parametrize("name", ["gateway-0", "http-0", "controller", "executor-0"])
async def test_garbage_on_a_port(emulated, name):
    """Port scanners and lost browsers come to every open port."""
    port = emulated.port_of(name)
    for garbage in GARBAGE:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            with trio.move_on_after(2):  # Some of it is the begin of something: no answer, no end.
                try:
                    await stream.send_all(garbage)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass


@pytest.mark.parametrize("name", ["gateway-0", "http-0", "controller", "executor-0"])
def test_half_open_connections_hold_nobody_up(emulated, name):
    """Clients behind broken networks leave them by the hundred."""
    port = emulated.port_of(name)
    half = struct.pack("<II", 0, 1000) + bytes(100)
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    try:
        for index, sock in enumerate(sockets):
            sock.sendall(half[: index % len(half)])
        with connect_blocking(emulated.address) as client:
            assert client.infer("tiny-mlp", FEATURES, slo="5s").outputs is not None
    finally:
        for sock in sockets:
            # Closed by a reset, the rudest way.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


async def test_a_client_that_comes_and_goes_quickly(emulated):
    """Each login leaves nothing behind: a thousand short scripts are as good as one long one."""
    descriptors = f"/proc/{emulated.pids['gateway-0']}/fd"
    async with connect(emulated.address) as client:
        before = _count(descriptors)
        for _ in range(50):
            async with connect(emulated.address) as short:
                await short.infer("tiny-mlp", FEATURES, slo="5s")
        assert (await client.infer("tiny-mlp", FEATURES, slo="5s")).outputs is not None
        await trio.to_thread.run_sync(
            lambda: wait_until(lambda: _count(descriptors) <= before + 2, what="sockets closed")
        )


def _count(folder):
    return len(os.listdir(folder))


# --- the command line -----------------------------------------------------------------------------


def test_the_command_line_explains_bad_input(emulated, tmp_path):
    """One line each, status 1, no traceback."""
    np.save(tmp_path / "good.npy", GOOD)
    np.save(tmp_path / "short.npy", GOOD[:2])
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("1, 2, 3, 4")
    (tmp_path / "empty.npy").write_bytes(b"")
    cases = [
        (("no-such", "good.npy"), "no model is named 'no-such'"),
        (("tiny-mlp", "missing.npy"), "missing.npy"),
        (("tiny-mlp", "short.npy"), "expected shape [4]"),
        (("tiny-mlp", "objects.npy"), "expected a .npy file with numbers"),
        (("tiny-mlp", "text.npy"), "expected a .npy file with numbers"),
        (("tiny-mlp", "empty.npy"), "expected a .npy file with numbers"),
        (("tiny-mlp", "feature=good.npy"), "expected the inputs features; got feature"),
        (("tiny-mlp", "good.npy", "--slo", "601s"), "expected an SLO between"),
    ]
    for (model, path, *options), said in cases:
        result = emulated.cw("infer", model, "--input", path, *options, cwd=tmp_path)

        assert result.returncode == 1, result
        assert said in result.stderr
        assert "Traceback" not in result.stderr
    for slo in ("nan", "-5ms", "-1", "inf"):
        result = emulated.cw("infer", "tiny-mlp", "--input", "good.npy", f"--slo={slo}")
        assert result.returncode == 2
        assert "expected a duration such as '100ms'" in result.stderr
    good = emulated.cw("infer", "tiny-mlp", "--input", "good.npy", "--slo", "5s", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert good.stdout.startswith("scores float32[3]: 0, 1, 2")


def test_the_bench_explains_bad_options(emulated, tmp_path):
    """A mistyped rate must not run for an hour, nor end in a traceback."""
    cases = [
        ("--models", "no-such-*"),
        ("--rate", "-5"),
        ("--rate", "nan"),
        ("--rate", "0"),
        ("--seconds", "-1"),
        ("--seconds", "nan"),
        ("--popularity", "zipf:x"),
        ("--arrivals", "sometimes"),
        ("--arrivals", f"trace:{tmp_path}/none.txt"),
        ("--closed", "-3"),
    ]
    for words in cases:
        result = emulated.cw("bench", "--seconds", "0.1", *words)

        assert result.returncode in (1, 2), (words, result)
        assert "Traceback" not in result.stderr, (words, result.stderr)
        assert result.stdout == ""
