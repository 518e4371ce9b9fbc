"""Errors that end a command: a code for machines, a sentence and a fix for people, an exit status.

The exit statuses are a contract: a service manager restarts on 70 and 75 and on nothing else.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit status of every `atoll` command."""

    OK = 0
    USAGE = 2
    INCOMPATIBLE = 10
    NOT_A_MEMBER = 11
    PREFLIGHT = 12
    LOCKED = 13
    BUG = 70
    TEMPORARY = 75


class AtollError(Exception):
    """Something a person has to know: what, and what to do about it."""

    def __init__(self, exit_status: Exit, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.code = code
        self.message = message
        self.fix = fix

    def sentence(self) -> str:
        """Message and fix as they are printed."""
        return f"{self.message} {self.fix}".strip()


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """A number that somebody gave. Raises AtollError (usage) where it is outside, or none at all."""
    if not lowest <= value <= highest:
        rule = (
            f"at least {lowest}"
            if value < lowest
            else f"at most {highest}"
            if value > highest
            else "a number"
        )
        raise AtollError(Exit.USAGE, "out_of_range", f"{name} is {value}; it must be {rule}.")
