"""Certificates for tests, in files: `trustme`, as `tools/devcluster up --tls` has them."""

import datetime
from pathlib import Path

import attrs
import trustme

from cw.config import TlsSettings


@attrs.define(eq=False)
class Authority:
    """One that signs what it is asked to; its files lie in a folder."""

    folder: Path
    ca: trustme.CA = attrs.field(factory=trustme.CA)

    def __attrs_post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca.cert_pem.write_to_path(self.ca_file)

    @property
    def ca_file(self):
        return str(self.folder / "ca.pem")

    @property
    def trusting(self):
        """A client's settings: it knows the authority and shows nothing."""
        return TlsSettings(ca=self.ca_file)

    def issue(self, name, *hosts, days=1):
        """Write a certificate, over the one of that name if there is one; valid for some days."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        issued = self.ca.issue_cert(
            *(hosts or ("127.0.0.1", "localhost")), common_name=name, not_after=until
        )
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.unlink(missing_ok=True)
        issued.private_key_pem.write_to_path(key)
        for at, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(cert, append=at > 0)
        return TlsSettings(cert=str(cert), key_file=str(key))

    def mutual(self, name, **how):
        """Issue a certificate and trust this authority alone."""
        return attrs.evolve(self.issue(name, **how), ca=self.ca_file)
