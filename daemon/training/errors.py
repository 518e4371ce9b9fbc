"""What can go wrong in a trainer, as types: each with a code for machines and a fix for people.

The code travels to the daemon in `channel.Failed` and becomes a sentence, an event and a counter there.
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of all errors of this package.

    `code` is stable and machine-readable; `fix` says what a person can do. `str()` gives both the
    message and the fix.
    """

    code = "training_error"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".rstrip()


class ConfigError(TrainingError):
    """A model, data or inner-optimizer description that this build can't follow."""

    code = "config_invalid"


class DeviceError(TrainingError):
    """A device that this machine does not have: starting again would not help."""

    code = "device_unusable"


class CorpusError(TrainingError):
    """Training text that is missing, unreadable, too large or too small."""

    code = "data_missing"


class SharedMemoryError(TrainingError):
    """The shared parameter vectors can't be made, opened, or have another size."""

    code = "memory_invalid"


class SchemaMismatchError(TrainingError):
    """The module's parameters are not those that the swarm averages."""

    code = "schema_mismatch"


class StateError(TrainingError):
    """A saved inner optimizer state that can't be written, or doesn't fit this optimizer."""

    code = "inner_state_unusable"


class ChannelError(TrainingError):
    """A line on the control channel that breaks the rules of `channel`."""

    code = "channel_invalid"


class ChannelClosedError(ChannelError):
    """The other process closed the control channel, or no longer reads it."""

    code = "channel_closed"


class DaemonStartError(TrainingError):
    """The daemon beside an own training loop did not come up; carries its exit code and last lines."""

    code = "daemon_failed"

    def __init__(self, message: str, fix: str = "", *, exit_code: int | None = None) -> None:
        super().__init__(message, fix)
        self.exit_code = exit_code


class SwarmStopped(Exception):
    """The daemon asked this training loop to end: control flow, nothing went wrong.

    `saved`: the inner optimizer state is on disk.
    """

    def __init__(self, saved: bool) -> None:
        super().__init__("The daemon asked the training loop to end.")
        self.saved = saved
