"""TLS of direct lanes: 1.3 only, and each side proves the Ed25519 key of its peer id. No authority is asked.

A node's certificate is self-signed with its identity key. Its peer gets it over the libp2p stream, which is
authenticated already, checks that the key in it is the one in the peer id, and takes that certificate and no
other. It says nothing else and never expires: what is valid is the offer that it comes with.

Python's ssl reads keys from files only, so the key goes through an anonymous file in memory (memfd), which is
gone when the context is made.
"""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from atoll.protocol.signing import public_key_of

MAX_CERTIFICATE_BYTES = 1024
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "atoll")])
# RFC 5280, 4.1.2.5: this is the date for "no well-defined expiration".
_SINCE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_UNREADABLE = (ValueError, TypeError, x509.InvalidVersion, InvalidSignature, UnsupportedAlgorithm)


class NotTheirs(ValueError):
    """A certificate that is not the peer's."""


@dataclass(frozen=True, repr=False)
class Credentials:
    """This node's certificate (DER) and, for TLS only, its key."""

    certificate: bytes
    _pem: bytes

    @classmethod
    def of(cls, key: Ed25519PrivateKey) -> Credentials:
        """The same ones every time for one key."""
        builder = x509.CertificateBuilder(_NAME, _NAME, key.public_key(), 1, _SINCE, _UNTIL)
        certificate = builder.sign(key, None)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return cls(certificate.public_bytes(Encoding.DER), certificate.public_bytes(Encoding.PEM) + secret)

    def server(self, peer_certificate: bytes | None) -> ssl.SSLContext:
        """For connections that are accepted: of the peer with this certificate, else of nobody."""
        return self._context(ssl.PROTOCOL_TLS_SERVER, peer_certificate)

    def client(self, peer_certificate: bytes) -> ssl.SSLContext:
        """For connections that are dialled to the peer with this certificate (DER)."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT, peer_certificate)

    def _context(self, protocol: int, trusted: bytes | None) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate itself is pinned
        context.verify_mode = ssl.CERT_REQUIRED
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # each connection proves its key
        if trusted is not None:
            context.load_verify_locations(cadata=trusted)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        descriptor = os.memfd_create("atoll-lane", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, self._pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


def check_certificate(certificate: bytes, peer: bytes) -> None:
    """Raises NotTheirs unless this certificate (DER) is by and of the key in the peer id."""
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise NotTheirs(f"a certificate of {len(certificate)} bytes")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        parsed.verify_directly_issued_by(parsed)
    except _UNREADABLE as error:
        raise NotTheirs("a certificate that is not readable or not signed by itself") from error
    if not isinstance(key, Ed25519PublicKey) or key.public_bytes_raw() != public_key_of(peer):
        raise NotTheirs("a certificate of another key than that in its peer id")
