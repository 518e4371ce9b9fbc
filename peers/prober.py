"""Dialling an address to see whether a certain node answers there: a TCP connection of its own, then TLS.

No libp2p connection that exists already can be mistaken for the answer, as it would be through p2pd. The
dialler speaks the beginning of libp2p's handshake (multistream-select, then TLS 1.3: libp2p specs, tls.md)
and goes as soon as the other side has shown its certificate: an extension in it holds the node's public key
and that key's signature of the certificate's own, which only that node can have made for the key with which
it has just signed the handshake. The dialler shows nothing of itself.

Nothing here raises for what a stranger does: `probe` returns why the node was not found, or an empty text.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from atoll.protocol.signing import PUBLIC_KEY_BYTES, public_key_of

TIMEOUT_S = 5.0
MAX_CERTIFICATE_BYTES = 4096
_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_SIGNED = b"libp2p-tls-handshake:"
_ED25519_KEY = bytes.fromhex("08011220")
"""libp2p's PublicKey: type Ed25519, then 32 bytes."""
_MULTISTREAM = b"/multistream/1.0.0\n"
_TLS = b"/tls/1.0.0\n"
_UNREADABLE = (ValueError, TypeError, x509.ExtensionNotFound, x509.InvalidVersion, UnsupportedAlgorithm)


class _NotLibp2p(Exception):
    """Something else answers there."""


async def probe(host: str, port: int, peer: bytes, timeout_s: float = TIMEOUT_S) -> str:
    """Why the node `peer` can't be dialled at this TCP port; empty where it can. `host`: an IP address."""
    try:
        async with asyncio.timeout(timeout_s):
            certificate = await _certificate(host, port)
    except TimeoutError:
        return f"no answer in {timeout_s:.0f} s"
    except ssl.SSLError:
        return "what answers there does not speak libp2p's TLS"
    except (_NotLibp2p, EOFError):
        return "what answers there is no libp2p node"
    except OSError as error:
        return _words(error)
    return "" if proves(certificate, peer) else "another node answers there"


def _words(error: OSError) -> str:
    known = {errno.ECONNREFUSED: "connection refused", errno.EHOSTUNREACH: "no route to host"}
    if error.errno in known:
        return known[error.errno]
    return (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__).lower()


async def _certificate(host: str, port: int) -> bytes:
    """What the listener shows in TLS, DER. Raises OSError, EOFError, _NotLibp2p."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 14)
    try:
        writer.write(_prefixed(_MULTISTREAM) + _prefixed(_TLS))
        await writer.drain()
        for expected in (_MULTISTREAM, _TLS):
            size = (await reader.readexactly(1))[0]
            if await reader.readexactly(min(size, len(expected))) != expected or size != len(expected):
                raise _NotLibp2p
        await writer.start_tls(_context(), ssl_handshake_timeout=TIMEOUT_S)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if not shown:
            raise _NotLibp2p
        return bytes(shown)
    finally:
        # Without a goodbye: the other side wants a certificate, and none will come.
        writer.transport.abort()


def _prefixed(line: bytes) -> bytes:
    return bytes([len(line)]) + line


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # No authority knows these certificates; what is in them is checked by `proves`.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["libp2p"])
    return context


def proves(certificate: bytes, peer: bytes) -> bool:
    """Whether a certificate (DER) that was used in a TLS handshake is one that `peer` made for itself."""
    key = public_key_of(peer)
    if key is None or len(certificate) > MAX_CERTIFICATE_BYTES:
        return False
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        extension = parsed.extensions.get_extension_for_oid(_EXTENSION).value
        host_key, signature = _signed_key(bytes(extension.public_bytes()))
        spki = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except _UNREADABLE:
        return False
    if host_key != _ED25519_KEY + key or len(key) != PUBLIC_KEY_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _SIGNED + spki)
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed_key(data: bytes) -> tuple[bytes, bytes]:
    """Both parts of SEQUENCE {OCTET STRING, OCTET STRING}, all below 128 bytes. Raises ValueError."""
    if len(data) < 2 or data[0] != 0x30 or data[1] >= 0x80 or data[1] != len(data) - 2:
        raise ValueError("no sequence of less than 128 bytes")
    found, rest = [], data[2:]
    while rest:
        if len(rest) < 2 or rest[0] != 0x04 or rest[1] >= 0x80 or len(rest) < 2 + rest[1]:
            raise ValueError("no string of bytes")
        found.append(rest[2 : 2 + rest[1]])
        rest = rest[2 + rest[1] :]
    if len(found) != 2:
        raise ValueError("not two strings")
    return found[0], found[1]
