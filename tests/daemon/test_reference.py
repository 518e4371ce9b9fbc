"""docs/reference.md is what the code makes, and says something of everything."""

from __future__ import annotations

import re
from dataclasses import fields

from atoll.daemon.cli import build_parser, reference
from atoll.daemon.config import Settings
from atoll.daemon.errors import Exit


def test_the_reference_is_that_of_the_code() -> None:
    assert reference.TARGET.read_text() == reference.text(), "run: python -m atoll.daemon.cli.reference"


def test_nothing_is_left_without_a_word() -> None:
    text = reference.text()
    commands = list(reference._commands(build_parser(), "atoll"))
    assert len(commands) > 30 and len({name for name, _, _ in commands}) == len(commands)
    assert all(words for _, _, words in commands)
    for setting in fields(Settings):
        assert re.search(rf"^\| `{setting.name}` \| .+ \| .+ \| .* \| ✓? ?\|$", text, re.M), setting.name
    for code in Exit:
        assert f"\n| {int(code)} | " in text
    assert not re.findall(r"^\| `[^`]*` \|  \|$", text, re.M), "an option without help"
