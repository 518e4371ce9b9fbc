"""docs/reference.md, written from the code: every command with its options, setting, exit status and alert.

    python -m atoll.daemon.cli.reference            writes it; a test compares

What an alert means stands in docs/alerts.md, by hand; here is the list, with a link to each.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from atoll.daemon.cli import build_parser
from atoll.daemon.config import LIVE, Settings
from atoll.daemon.errors import Exit
from atoll.daemon.verdicts import CHECKS

DOCS = Path(__file__).resolve().parents[2] / "docs"
TARGET = DOCS / "reference.md"
_MEANT = {
    Exit.OK: ("asked to stop, or done", "no"),
    Exit.USAGE: ("usage or configuration", "no"),
    Exit.INCOMPATIBLE: ("no protocol version in common", "no"),
    Exit.NOT_A_MEMBER: ("not a member: ticket expired or used up, revoked, banned", "no"),
    Exit.PREFLIGHT: ("preflight: a taken port, a device that is not there", "no"),
    Exit.LOCKED: ("data dir in use", "no"),
    Exit.BUG: ("a bug: `atoll support-bundle`", "yes, with a pause"),
    Exit.TEMPORARY: ("temporary: network, no space", "yes, with a pause"),
}


def text() -> str:
    """The whole page."""
    lines = [
        "# Reference",
        "",
        "Made from the code by `python -m atoll.daemon.cli.reference`.",
        "",
        "## Commands",
        "",
        "Each takes `--data-dir DIR` (or `ATOLL_HOME`); those that read take `--json`.",
        "",
    ]
    for name, parser, words in _commands(build_parser(), "atoll"):
        lines += [f"### {name}", "", words, ""]
        options = list(_options(parser))
        if options:
            lines += ["| option | |", "|---|---|", *options, ""]
    lines += [
        "## Settings",
        "",
        "In `config.toml`, as `ATOLL_NAME` in the environment, by `atoll config set NAME=VALUE`; those with",
        "an option also on the command line of `run`, `join` and `bootstrap`. Those with a mark take effect",
        "at once when they are set, others at the next start.",
        "",
        "| setting | default | | option | at once |",
        "|---|---|---|---|---|",
    ]
    shown = _setting_options()
    for field in fields(Settings):
        default = field.default if field.default not in ("", ()) else "empty"
        mark = "✓" if field.name in LIVE else ""
        option = shown.get(field.name, "")
        row = [f"`{field.name}`", _cell(str(default)), _cell(field.metadata["doc"]), option, mark]
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", "## Exit status", "", "| status | | start again? |", "|---|---|---|"]
    lines += [f"| {int(code)} | {_MEANT[code][0]} | {_MEANT[code][1]} |" for code in Exit]
    lines += ["", "## Verdicts of `atoll doctor`", ""]
    lines += [f"- {check}" for check in CHECKS]
    lines += ["", "## Alerts", ""]
    lines += [f"- [`{code}`](alerts.md#{code})" for code in alerts()]
    return "\n".join([*lines, ""])


def alerts() -> list[str]:
    """Codes that docs/alerts.md explains, which a test holds against those that are raised."""
    return re.findall(r"^## ([a-z_0-9]+)$", (DOCS / "alerts.md").read_text(), re.M)


def _commands(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Every command that does something: its words, its parser, and what it is for."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, below in action.choices.items():
                if any(isinstance(each, argparse._SubParsersAction) for each in below._actions):
                    yield from _commands(below, f"{name} {word}")
                else:
                    yield f"{name} {word}", below, below.description or told.get(word, "")


def _setting_options() -> dict[str, str]:
    """The option of each setting that has one."""
    return {
        action.dest: f"`{action.option_strings[0]}`"
        for name, parser, _ in _commands(build_parser(), "atoll")
        if name in ("atoll run", "atoll join")
        for action in parser._actions
        if action.option_strings and action.dest in {field.name for field in fields(Settings)}
    }


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Those of a command, but not those for settings: they are in a table of their own."""
    settings = {
        id(action)
        for group in parser._action_groups
        if (group.title or "").startswith("settings")
        for action in group._group_actions
    }
    for action in parser._actions:
        if id(action) in settings:
            continue
        if action.help == argparse.SUPPRESS or {"-h", "--data-dir", "--json"} & set(action.option_strings):
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else None
        if action.option_strings:
            value = metavar or ("|".join(map(str, action.choices)) if action.choices else "")
            if not value and action.nargs != 0:
                value = action.dest.upper()
            words = ", ".join(action.option_strings) + (f" {value}" if value and action.nargs != 0 else "")
        else:
            words = metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest)
        yield f"| `{_cell(words)}` | {_cell(action.help or '')} |"


def _cell(words: str) -> str:
    return words.replace("%%", "%").replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(text())
