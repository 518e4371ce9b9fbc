"""The files of the page: small, complete, whole, and without markup from strings or another origin."""

import gzip
import hashlib
import re
from pathlib import Path

import httpx

from atoll.web_ui.assets import STATIC_FOLDER, load_assets

GZIP_BUDGET_BYTES = 150_000
OWN = [path for path in STATIC_FOLDER.rglob("*") if path.is_file() and "vendor" not in path.parts]


def test_the_whole_page_is_small() -> None:
    total = sum(len(gzip.compress(asset.body)) for asset in load_assets().values())
    assert 0 < total < GZIP_BUDGET_BYTES


def test_vendored_code_is_what_its_checksums_say() -> None:
    folder = STATIC_FOLDER / "vendor" / "uplot"
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    assert files == set(sums) and "LICENSE" in files
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (folder / "LICENSE").read_text()


def test_only_listed_kinds_of_files_are_served() -> None:
    served = set(load_assets())
    assert "vendor/uplot/LICENSE" not in served and "index.html" in served


def test_every_file_that_is_named_exists() -> None:
    assets = load_assets()
    page = (STATIC_FOLDER / "index.html").read_text()
    named = re.findall(r'(?:href|src)="/static/([^"]+)"', page)
    for path in OWN:
        if path.suffix == ".js":
            imports = re.findall(r'from "(\.[^"]+)"', path.read_text())
            named += re.findall(r'Worker\("/static/([^"]+)"', path.read_text())
            named += [
                (path.parent / each).resolve().relative_to(STATIC_FOLDER).as_posix() for each in imports
            ]
    assert named and set(named) <= set(assets)
    # And nothing lies there that nobody loads.
    assert set(assets) == set(named) | {"index.html"}


def test_our_modules_make_no_markup_from_strings() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser"
    )
    for path in OWN:
        assert not forbidden.search(path.read_text()), path


def test_nothing_refers_to_another_origin() -> None:
    for path in OWN:
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|url\(|@import", text), path


def test_the_page_has_no_inline_code_that_the_policy_would_stop() -> None:
    page = (STATIC_FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_files_stay_readable() -> None:
    for path in OWN:
        assert len(path.read_text().splitlines()) <= 300, path


async def test_each_is_served_with_its_type(scripted: httpx.AsyncClient) -> None:
    for path, asset in load_assets().items():
        reply = await scripted.get(f"/static/{path}")
        assert (reply.content, reply.headers["content-type"]) == (asset.body, asset.media_type)


def test_a_folder_is_read_by_relative_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.js").write_text("1")
    (tmp_path / "a" / "b.txt").write_text("1")
    assert list(load_assets(tmp_path)) == ["a/b.js"]
