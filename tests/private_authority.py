"""A certificate authority that nobody knows, and a server with its certificate."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Its certificate is ``<folder>/authority.pem``."""

    def __init__(self, folder: Path, name: str = "An authority of tests") -> None:
        self.folder, self.file = folder, folder / "authority.pem"
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _named(name)
        self.file.write_bytes(self._issue(self._name, self._key, authority=True))

    def server_context(self) -> ssl.SSLContext:
        """Of a server on 127.0.0.1."""
        key, pem = ec.generate_private_key(ec.SECP256R1()), self.folder / "server.pem"
        encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem.write_bytes(key.private_bytes(*encoding) + self._issue(_named("server"), key, authority=False))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context

    def _issue(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@contextlib.contextmanager
def https(authority: Authority, handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of *handler* on loopback; its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = authority.server_context().wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
