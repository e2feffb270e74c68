"""Certificates to throw away, for `tools/devcluster up --tls`.

::

    tls/ca.pem        whom clients trust        tls/gateway.pem, .key   the doors' certificate
    tls/cluster-ca.pem  whom processes trust    tls/cluster.pem, .key   each process's

Two authorities: a certificate of the clients' side opens nothing inside the cluster. The private
keys of both are forgotten as soon as they have signed, so nothing more can be issued. A cluster
that lives on machines of its own has certificates of its owner's making (docs/security.md).
"""

from pathlib import Path
from typing import Final

import attrs

from cw.config import ClusterSettings, TlsSettings
from cw.errors import ConfigError

TLS_FOLDER: Final = "tls"
CA_FILE: Final = "ca.pem"
_HOSTS: Final = ("127.0.0.1", "localhost")


def with_throwaway_tls(settings: ClusterSettings, folder: Path) -> ClusterSettings:
    """Make new certificates in a cluster's folder, and settings that name them.

    Raises:
        ConfigError: The package that makes them is not installed.
    """
    place = (folder / TLS_FOLDER).resolve()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    inside = _issued(place, "cluster-ca.pem", "cluster")
    doors = _issued(place, CA_FILE, "gateway")
    return attrs.evolve(
        settings,
        link=attrs.evolve(settings.link, tls=inside),
        gateway=attrs.evolve(settings.gateway, tls=attrs.evolve(doors, ca="")),
    )


def _issued(place: Path, ca_file: str, name: str) -> TlsSettings:
    """Make an authority and one certificate of it."""
    try:
        import trustme
    except ImportError as exc:
        raise ConfigError(
            "--tls makes its certificates with the package trustme: pip install 'cw[dev-tls]'"
        ) from exc
    authority = trustme.CA(organization_name="cw devcluster")
    authority.cert_pem.write_to_path(str(place / ca_file))
    issued = authority.issue_cert(*_HOSTS, common_name=name)
    key_path = place / f"{name}.key"
    key_path.touch(mode=0o600)
    issued.private_key_pem.write_to_path(str(key_path))
    cert_path = place / f"{name}.pem"
    cert_path.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return TlsSettings(ca=str(place / ca_file), cert=str(cert_path), key_file=str(key_path))
