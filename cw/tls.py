"""TLS of connections: contexts made of files that may be replaced while the process runs.

Both doors and the cluster's own links use it. TLS 1.2 is the oldest version spoken. A server reads
its files anew when they have changed, so that the next connection gets the new certificate; the
ones that are open keep what they began with.

`explained` turns OpenSSL's words into what to do. Knows nothing of sockets' owners: `rpc/kj_tls.py`
and `http/server.py` are those.
"""

import logging
import os
import ssl
from typing import Final

import attrs

from cw.config import TlsSettings
from cw.errors import ConfigError

logger = logging.getLogger(__name__)

HANDSHAKE_BYTE: Final = 0x16
"""What each TLS client's first record begins with."""
ALERT_BYTE: Final = 0x15
"""What a record begins with that says why the sender ends the connection."""

TLS_WANTED_ALERT: Final = bytes((ALERT_BYTE, 3, 3, 0, 2, 2, 70))
"""To a client that does not speak TLS: a fatal alert, ``protocol_version`` (RFC 8446, 6)."""

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_WRONG_HOST: Final = 62
_WRONG_IP: Final = 64
"""X509_V_ERR_... of OpenSSL's x509_vfy.h; all others mean that nobody trusted has signed it."""

_NO_TLS: Final = (
    "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE",
)  # fmt: skip
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it asks for a certificate of ours: name one with --cert and "
    "--key-file, or [link.tls] cert and key_file",
    "HANDSHAKE_FAILURE": "it asks for a certificate of ours, or for ciphers that we lack",
    "UNKNOWN_CA": "it does not trust who signed our certificate: use one of its own authority",
    "CERTIFICATE_EXPIRED": "our certificate has expired: replace its file, then try again",
    "BAD_CERTIFICATE": "it does not accept our certificate",
    "PROTOCOL_VERSION": "it speaks no version of TLS that we do: 1.2 or later is needed",
}


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """Make the context of one dial; files that were replaced since the last one are seen.

    Raises:
        ConfigError: A file can't be read, or is no certificate or key.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key_file or None)
    except (OSError, ValueError) as exc:
        raise _unreadable(settings, exc) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Make a server's context; with a ``ca``, clients must have a certificate of that authority.

    Raises:
        ConfigError: A file can't be read, or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(settings.cert, settings.key_file or None)
        if settings.ca:
            context.load_verify_locations(settings.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as exc:
        raise _unreadable(settings, exc) from exc
    return context


def _unreadable(settings: TlsSettings, exc: Exception) -> ConfigError:
    files = ", ".join(repr(path) for path in _paths(settings)) or "the system's authorities"
    return ConfigError(
        f"expected PEM files of an authority, a certificate and its key among {files}: {exc}"
    )


def _paths(settings: TlsSettings) -> tuple[str, ...]:
    return tuple(path for path in (settings.ca, settings.cert, settings.key_file) if path)


@attrs.define(eq=False)
class ServerTls:
    """A server's context, kept as new as its files.

    Raises:
        ConfigError: A file can't be read at the start, or is no certificate or key.
    """

    settings: TlsSettings
    _stamps: tuple[object, ...] = attrs.field(init=False)
    _context: ssl.SSLContext = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._stamps = self._stamps_now()
        self._context = server_context(self.settings)

    def context(self) -> ssl.SSLContext:
        """Return what the next connection is to use.

        Files that have changed and can't be used (a key without its new certificate, as while both
        are being replaced) leave the context as it was; the next change is tried again.
        """
        stamps = self._stamps_now()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = server_context(self.settings)
            except ConfigError as exc:
                logger.error("certificate not replaced, the old one stays: %s", exc)
            else:
                logger.info("certificate replaced cert=%s", self.settings.cert)
        return self._context

    def _stamps_now(self) -> tuple[object, ...]:
        """Tell versions of the files apart; a missing one has none."""
        return tuple(_stamp(path) for path in _paths(self.settings))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def server_tls(settings: TlsSettings) -> ServerTls | None:
    """Return a server's TLS; None when the settings name no certificate.

    Raises:
        ConfigError: A file can't be read.
    """
    if settings.cert:
        return ServerTls(settings)
    if settings.ca or settings.key_file:
        raise ConfigError(
            "expected a certificate of our own (cert) beside ca and key_file of the TLS settings"
        )
    return None


def explained(error: OSError, peer: str) -> str:
    """Say what is wrong with a connection that TLS ended, and what to do about it.

    Args:
        error: From the handshake or from a later read.
        peer: Whom we dialled, or who dialled us.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{peer}: {_verification(error)}"
    reason = (getattr(error, "reason", None) or "").upper()
    if any(word in reason for word in _NO_TLS):
        return f"{peer} does not speak TLS there: dial tcp:HOST:PORT, or give it a certificate"
    for alert, meaning in _ALERTS.items():
        if alert in reason:
            return f"{peer} ended the connection: {meaning}"
    if isinstance(error, ssl.SSLEOFError | ConnectionError) or "EOF" in reason:
        return (
            f"{peer} closed the connection within the TLS handshake: if it does not speak TLS, "
            "dial tcp:HOST:PORT; if it does, its log says what it lacks"
        )
    return f"{peer}: TLS failed: {error}"


def _verification(error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "its certificate has expired: have it replaced there (no restart is needed)"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet: compare both machines' clocks"
    if code in (_WRONG_HOST, _WRONG_IP):
        return f"its certificate is for another host: dial a name that it holds ({error})"
    return (
        "nobody who is trusted here has signed its certificate: name the authority with --ca, "
        f"CW_CA or [link.tls] ca ({error.verify_message})"
    )
