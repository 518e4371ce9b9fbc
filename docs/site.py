"""What the site has beside docs/: README, protocol and benchmarks, with links that lead inside it.

A hook of MkDocs. Links to other files of the repository, such as source code, become plain words: a site that
is read without the repository can't follow them.
"""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_NOT_OURS = re.compile(r"[a-z]+:|/")


@cache
def _added() -> dict[str, Path]:
    """By place in the site: the files that are not in docs/."""
    results = (ROOT / "benchmarks").rglob("*")
    found = {"index.md": ROOT / "README.md", "protocol/SPEC.md": ROOT / "protocol" / "SPEC.md"}
    found |= {str(path.relative_to(ROOT)): path for path in results if path.suffix in (".md", ".svg")}
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, path in _added().items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Each link as it is from the repository's root, and then from this page."""
    here = page.file.src_uri
    in_repository = _in_repository(here)

    def moved(found: re.Match[str]) -> str:
        mark, words, target, anchor = found[1], found[2], found[3], found[4] or ""
        if _NOT_OURS.match(target):
            return found[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), target))
        place = _in_site(meant)
        if files.get_file_from_path(place) is None:
            return words
        return f"{mark}[{words}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(moved, markdown)


def _in_repository(place: str) -> str:
    if place == "index.md":
        return "README.md"
    return place if place in _added() else f"docs/{place}"


def _in_site(path: str) -> str:
    if path == "README.md":
        return "index.md"
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
    return path.removeprefix("docs/")
