"""TLS under Cap'n Proto: payloads arrive whole, and each failure says what to do."""

import logging
import os
import random
import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from cw.config import LinkSettings, TlsSettings
from cw.errors import ConfigError, PeerDisconnected
from cw.rpc.kj_address import listen
from cw.rpc.kj_connection import connect
from cw.rpc.kj_guard import DoorLimits
from cw.rpc.kj_loop import open_kj
from cw.rpc.kj_serve import serve
from cw.rpc.server import tls_at
from cw.tls import ServerTls
from tests.actor.kj_probe import Probe, schema
from tests.tls_files import Authority

LIMIT_S = 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("stranger"))


@asynccontextmanager
async def served(settings, *, handshake_limit_s=10):
    """Yield the address of a server of Probes; it speaks TLS where the settings say so."""
    tls = ServerTls(settings) if settings is not None else None
    with trio.fail_after(LIMIT_S):  # A handshake that nobody ends fails the test.
        async with open_kj(), trio.open_nursery() as nursery:

            async def run(task_status):
                await serve(
                    listen("tcp:127.0.0.1:0"),
                    Probe,
                    tls=tls,
                    door=DoorLimits(handshake_limit_s=handshake_limit_s),
                    task_status=task_status,
                )

            yield await nursery.start(run)
            nursery.cancel_scope.cancel()


async def echo(connection, data=b"x"):
    probe = connection.bootstrap(schema.Probe)
    async with connection.slot(len(data)):
        with connection.errors():
            return (await probe.echo(data)).data


async def failing(address, tls):
    """Dial, call, and return what the user is told."""
    with pytest.raises(PeerDisconnected) as caught:
        async with connect(address, tls=tls) as connection:
            await echo(connection)
    return str(caught.value)


@pytest.mark.parametrize("size", [0, 1, (1 << 14) - 1, (1 << 14) + 1, 600_000, 8 * MIB])
async def test_payloads_of_any_size_come_back_as_they_went(authority, size):
    """Records hold 16 KiB, messages do not end where records do, and sockets block midway."""
    data = random.Random(size).randbytes(size)
    async with served(authority.mutual("server")) as address:
        async with connect(address, tls=authority.mutual("client")) as connection:
            assert await echo(connection, data) == data

    assert address.startswith("tls:")


async def test_many_calls_at_once_share_a_connection(authority):
    """Writes that block are repeated with more behind them: nothing may be lost or doubled."""
    bodies = [random.Random(n).randbytes(n * 997 % 300_000) for n in range(100)]
    got = {}
    async with served(authority.issue("server")) as address:
        async with connect(address, tls=authority.trusting) as connection:

            async def one(number):
                got[number] = await echo(connection, bodies[number])

            async with trio.open_nursery() as nursery:
                for number in range(len(bodies)):
                    nursery.start_soon(one, number)

    assert [got[number] for number in range(len(bodies))] == bodies


async def test_bytes_on_the_wire_show_nothing(authority):
    """The point of it all: a tap between the two sees no payload."""
    secret, seen = b"a recognisable payload" * 40, bytearray()

    async def tap(source, target):
        async for piece in source:
            seen.extend(piece)
            await target.send_all(piece)
        await target.aclose()

    async with served(authority.issue("server")) as address:
        port = int(address.rpartition(":")[2])

        async def both(client):
            server = await trio.open_tcp_stream("127.0.0.1", port)
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(tap, client, server)
                nursery.start_soon(tap, server, client)

        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, both, 0, host="127.0.0.1"))
            tapped = f"tls:127.0.0.1:{listener.socket.getsockname()[1]}"
            async with connect(tapped, tls=authority.trusting) as connection:
                assert await echo(connection, secret) == secret
            nursery.cancel_scope.cancel()

    assert len(seen) > 2 * len(secret)
    assert secret[:22] not in seen


async def test_a_client_tells_a_server_of_another_authority(authority, stranger):
    """Somebody in the way who has a certificate of his own must not be taken for the server."""
    async with served(stranger.issue("server")) as address:
        text = await failing(address, authority.trusting)

    assert "nobody who is trusted here has signed" in text
    assert "--ca" in text


async def test_an_expired_certificate_is_called_that(authority):
    """The commonest failure of TLS in practice: it must not read as a mystery."""
    async with served(authority.issue("old", days=-1)) as address:
        text = await failing(address, authority.trusting)

    assert "expired" in text
    assert "replaced" in text


async def test_a_certificate_for_another_host_is_refused(authority):
    """One of the authority's other servers is not this one."""
    async with served(authority.issue("other", "elsewhere.example")) as address:
        text = await failing(address, authority.trusting)

    assert "for another host" in text
    assert "127.0.0.1" in text


async def test_a_peer_without_a_certificate_is_no_peer(authority):
    """Mutual TLS: who only reaches the port learns what it lacks, and gets no capability."""
    async with served(authority.mutual("server")) as address:
        text = await failing(address, authority.trusting)

    assert "asks for a certificate of ours" in text
    assert "--cert" in text


async def test_a_peer_of_another_authority_is_no_peer(authority, stranger):
    """A certificate alone proves nothing: its authority must be the cluster's."""
    mine = stranger.issue("client")
    tls = TlsSettings(ca=authority.ca_file, cert=mine.cert, key_file=mine.key_file)
    async with served(authority.mutual("server")) as address:
        text = await failing(address, tls)

    assert "does not trust who signed our certificate" in text


async def test_a_plain_client_at_a_tls_door_is_told_so(authority):
    """It would otherwise hear only that the connection is gone, and look at the network."""
    async with served(authority.issue("server")) as address:
        text = await failing(address.replace("tls:", "tcp:"), None)

    assert "speaks TLS" in text
    assert "tls:HOST:PORT" in text


async def test_a_tls_client_at_a_plain_door_is_told_so(authority, caplog):
    """Likewise the other way round, in the client's error and in the server's log."""
    async with served(None) as address:
        text = await failing(address.replace("tcp:", "tls:"), authority.trusting)

    assert "tcp:HOST:PORT" in text
    assert "a peer speaks TLS at a door without" in caplog.text


async def test_versions_before_1_2_are_refused(authority):
    """Their ciphers are broken; no client of ours speaks them, so none is kept waiting for it."""
    async with served(authority.issue("server")) as address:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(authority.ca_file)
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
        async with trio.SSLStream(stream, old, server_hostname="127.0.0.1") as secured:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await secured.do_handshake()

    assert "PROTOCOL_VERSION" in str(caught.value.__cause__).upper().replace(" ", "_")


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_who_does_not_finish_the_handshake_is_cut_off(authority, begun):
    """Half-open handshakes would hold the places of clients who want to come in."""
    async with served(authority.issue("server"), handshake_limit_s=0.2) as address:
        stream = await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))
        async with stream:
            if begun:
                await stream.send_all(begun)
            with trio.fail_after(LIMIT_S / 2):
                while await stream.receive_some():
                    pass


def serial_at(address, authority):
    """Say which certificate a new connection gets."""
    host, port = address.split(":")[1:]
    context = ssl.create_default_context(cafile=authority.ca_file)
    with socket.create_connection((host, int(port))) as plain:
        with context.wrap_socket(plain, server_hostname=host) as secured:
            return secured.getpeercert()["serialNumber"]


async def test_a_replaced_certificate_serves_the_next_connection(authority):
    """Certificates live for weeks, servers for months: nobody restarts one for the other."""
    async with served(authority.issue("renewed")) as address:
        async with connect(address, tls=authority.trusting) as kept:
            before = await trio.to_thread.run_sync(serial_at, address, authority)
            authority.issue("renewed")
            after = await trio.to_thread.run_sync(serial_at, address, authority)

            assert before != after
            assert await echo(kept, b"goes on") == b"goes on"


async def test_half_a_replacement_leaves_the_old_certificate(authority, caplog):
    """Between the writing of two files a client may come; it gets what was valid before."""
    settings = authority.issue("halfway")
    async with served(settings) as address:
        before = await trio.to_thread.run_sync(serial_at, address, authority)
        os.truncate(settings.cert, 40)
        during = await trio.to_thread.run_sync(serial_at, address, authority)
        authority.issue("halfway")
        after = await trio.to_thread.run_sync(serial_at, address, authority)

    assert during == before
    assert after != before
    assert "the old one stays" in caplog.text


def test_missing_files_are_named(authority, tmp_path):
    """A server without its certificate must not start, let alone without TLS."""
    gone = str(tmp_path / "gone.pem")
    with pytest.raises(ConfigError, match=r"gone\.pem"):
        ServerTls(TlsSettings(cert=gone))


def test_an_address_and_the_settings_must_agree(authority):
    """Who has a certificate and listens without it has made a mistake that nobody would notice."""
    mine = authority.issue("server")
    with pytest.raises(ConfigError, match="expected tls:HOST:PORT"):
        tls_at("tcp:127.0.0.1:0", mine)
    with pytest.raises(ConfigError, match="expected a certificate"):
        tls_at("tls:127.0.0.1:0", TlsSettings())

    assert tls_at("fd:3", mine) is not None
    assert tls_at("tcp:127.0.0.1:0", LinkSettings().tls) is None


def line_of(path):
    """Return a line of a key that is nobody else's."""
    return Path(path).read_text().splitlines()[1]


async def test_the_private_key_is_not_logged(authority, caplog):
    """Errors about files name them, and quote nothing of what they hold."""
    settings = authority.issue("quoted")
    body = line_of(settings.key_file)
    with caplog.at_level(logging.DEBUG):
        async with served(settings) as address:
            os.truncate(settings.cert, 40)
            await trio.to_thread.run_sync(serial_at, address, authority)

    assert "certificate not replaced" in caplog.text
    assert body not in caplog.text
