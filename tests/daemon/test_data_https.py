"""Shards by HTTPS from a real server with a throw-away CA: broken off, resumed, lied to, redirected."""

from __future__ import annotations

import asyncio
import datetime
import errno
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from atoll.daemon import data_https
from atoll.daemon.data_https import HttpsSource
from atoll.daemon.data_sources import Unavailable
from atoll.daemon.errors import AtollError
from atoll.daemon.storage.shard_files import ShardFiles
from atoll.peers.pacing import RateCap
from atoll.protocol import messages_pb2 as pb

TEXT = bytes(range(256)) * 4000
HOST = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
DIGEST = hashlib.sha256(TEXT).digest()


def certificates(folder: Path) -> tuple[Path, Path]:
    """Files of a CA's certificate, and of a key with a certificate by it for 127.0.0.1."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("test CA", "test server")]
    now = datetime.datetime.now(datetime.UTC)
    made = []
    for place, (key, name) in enumerate(zip(keys, names, strict=True)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=place == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([HOST]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False
            )
        )
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    authority, server = folder / "ca.pem", folder / "server.pem"
    authority.write_bytes(made[0])
    server.write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made[1]
    )
    return authority, server


Answer = Callable[[dict[str, str]], tuple[bytes, bool]]
"""Request headers to all that is sent, and whether the connection is broken off then."""


class Server:
    """Answers one request a connection with what the test says."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.paths: list[str] = []
        self.ranges: list[str | None] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
            assert headers["accept-encoding"] == "identity"
            self.paths.append(head[0].split()[1])
            self.ranges.append(headers.get("range"))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            data, broken = answer(headers)
            writer.write(data)
            await writer.drain()
            if broken:
                writer.transport.abort()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


def reply(status: str, body: bytes = b"", **headers: object) -> bytes:
    fields = {"Content-Length": len(body)} | {k.replace("_", "-"): v for k, v in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n{lines}\r\n".encode() + body


def from_range(headers: dict[str, str], text: bytes = TEXT) -> bytes:
    """The whole file, or the rest that was asked for."""
    if "range" not in headers:
        return reply("200 OK", text)
    start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
    return reply("206 Partial", text[start:], Content_Range=f"bytes {start}-{len(text) - 1}/{len(text)}")


def good(headers: dict[str, str]) -> tuple[bytes, bool]:
    return from_range(headers), False


def breaks_after(count: int) -> Answer:
    def answer(headers: dict[str, str]) -> tuple[bytes, bool]:
        whole = from_range(headers)
        return whole[: whole.index(b"\r\n\r\n") + 4 + count], True

    return answer


def says(data: bytes) -> Answer:
    return lambda headers: (data, False)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def server(pems: tuple[Path, Path]) -> AsyncIterator[Server]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pems[1])
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/texts/"
    yield made
    listening.close()


@pytest.fixture
def files(tmp_path: Path) -> ShardFiles:
    made = ShardFiles(tmp_path / "shards", [pb.DataShard(digest=DIGEST, size_bytes=len(TEXT))])
    made.create()
    return made


@pytest.fixture
def source(server: Server, files: ShardFiles, pems: tuple[Path, Path]) -> HttpsSource:
    return HttpsSource(files, server.url, RateCap(), trust=ssl.create_default_context(cafile=pems[0]))


async def get(source: HttpsSource) -> list[int]:
    """Fetches the shard; how many bytes were here, as they came."""
    seen = []
    async with asyncio.timeout(30):
        await source.fetch(0, lambda here, total: seen.append(here))
    return seen


async def refused(source: HttpsSource) -> str:
    with pytest.raises(Unavailable) as caught:
        await get(source)
    return str(caught.value)


async def test_a_shard_comes_whole(server: Server, source: HttpsSource, files: ShardFiles) -> None:
    server.answers = [good]
    seen = await get(source)
    assert files.has(0) and files.path(0).read_bytes() == TEXT
    assert seen == sorted(seen) and seen[-1] == len(TEXT)
    assert server.paths == [f"/texts/{DIGEST.hex()}"] and server.ranges == [None]
    assert [path.name for path in files.folder.iterdir()] == [DIGEST.hex()]


async def test_what_breaks_off_is_resumed(server: Server, source: HttpsSource, files: ShardFiles) -> None:
    server.answers = [breaks_after(300_000), breaks_after(200_000), good]
    await get(source)
    assert files.has(0) and len(server.ranges) == 3
    starts = [int((r or "bytes=0-").removeprefix("bytes=").rstrip("-")) for r in server.ranges]
    assert 0 == starts[0] < starts[1] < starts[2] < len(TEXT)


async def test_what_is_here_is_resumed_after_a_restart(
    server: Server, source: HttpsSource, files: ShardFiles
) -> None:
    files.path(0).with_suffix(".https").write_bytes(TEXT[:5000])
    files.tidy()
    server.answers = [good]
    await get(source)
    assert files.has(0) and server.ranges == ["bytes=5000-"]


async def test_a_server_without_ranges_begins_again(
    server: Server, source: HttpsSource, files: ShardFiles
) -> None:
    server.answers = [breaks_after(300_000), says(reply("200 OK", TEXT))]
    await get(source)
    assert files.has(0) and files.path(0).read_bytes() == TEXT


async def test_a_part_of_another_file_is_given_up(
    server: Server, source: HttpsSource, files: ShardFiles
) -> None:
    part = files.path(0).with_suffix(".https")
    server.answers = [good]
    part.write_bytes(b"x" * 5000)
    assert "not those" in await refused(source) and not part.exists()
    await get(source)
    assert files.has(0), "the server was not to blame"
    part.write_bytes(b"x" * (len(TEXT) + 1))
    await get(source)


async def test_a_server_that_lies_is_not_asked_again_for_a_while(
    server: Server, source: HttpsSource, files: ShardFiles
) -> None:
    server.answers = [says(reply("200 OK", bytes(len(TEXT))))]
    for _ in range(2):
        assert "not" in await refused(source)
    assert len(server.paths) == 1 and list(files.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply("404 Not Found"), "answered 404"),
        (reply("500 Oops", b"x"), "answered 500"),
        (reply("200 OK", TEXT[:-1]), "bytes, the shard"),
        (reply("200 OK", TEXT + b"x"), "bytes, the shard"),
        (reply("200 OK", TEXT, Content_Encoding="gzip"), "encoded"),
        (reply("206 Partial", TEXT, Content_Range=f"bytes 0-{len(TEXT) - 1}/*"), "another part"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + TEXT + b"more", "more than"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "ended after 0"),
        (b"SSH-2.0-Server\r\n\r\n", "."),
        (b"", "."),
        (reply("302 Found", Location="http://127.0.0.1:1/secret"), "by http, which is not secure"),
        (reply("302 Found", Location="ftp://127.0.0.1/"), "not secure|protocol"),
        (reply("302 Found", Location="/again"), "redirects"),
    ],
)
async def test_answers_that_are_no_shard(
    server: Server, source: HttpsSource, files: ShardFiles, answer: bytes, reason: str
) -> None:
    server.answers = [says(answer)]
    said = await refused(source)
    assert re.search(reason, said) and not files.has(0)


async def test_a_redirect_to_another_place_is_followed(
    server: Server, source: HttpsSource, files: ShardFiles
) -> None:
    server.answers = [says(reply("302 Found", Location="/elsewhere")), good]
    await get(source)
    assert files.has(0) and server.paths[1] == "/elsewhere"


async def test_a_certificate_of_a_stranger(server: Server, files: ShardFiles, tmp_path: Path) -> None:
    server.answers = [good]
    others, _ = certificates(tmp_path)
    for trust in (True, ssl.create_default_context(cafile=others)):
        assert "certificate can't be trusted" in await refused(
            HttpsSource(files, server.url, RateCap(), trust=trust)
        )
    assert server.paths == []


async def test_nobody_there(files: ShardFiles) -> None:
    assert await refused(HttpsSource(files, "https://127.0.0.1:1", RateCap()))


async def test_a_slow_server_is_left(
    server: Server, files: ShardFiles, pems: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10**9, 50))
    server.answers = [good]
    trust = ssl.create_default_context(cafile=pems[0])
    monkeypatch.setattr(data_https, "SLOW_BYTES_PER_S", len(TEXT))
    assert "slowly" in await refused(HttpsSource(files, server.url, RateCap(), lambda: next(now), trust))


async def test_the_cap_is_kept(server: Server, files: ShardFiles, pems: tuple[Path, Path]) -> None:
    cap = RateCap(100 * len(TEXT))
    server.answers = [good]
    await get(HttpsSource(files, server.url, cap, trust=ssl.create_default_context(cafile=pems[0])))
    assert cap.ready_at() > 0, "what came was spent"


async def test_a_full_disk_is_told_and_leaves_nothing(
    server: Server, source: HttpsSource, files: ShardFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    server.answers = [good]
    monkeypatch.setattr(data_https, "_written", full)
    with pytest.raises(AtollError, match="No space"):
        await get(source)
    assert list(files.folder.iterdir()) == []
