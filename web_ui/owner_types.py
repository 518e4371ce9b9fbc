"""What the state says of the owner's controls: why a node pauses, settings that can change, rules."""

from typing import TypedDict


class PausedBy(TypedDict):
    """A rule of the owner that pauses the node now."""

    code: str
    """schedule, network_schedule, weekly_traffic, battery, other_load or other_gpu."""
    text: str
    """A sentence: why, and when it resumes."""
    until: float | None
    """Unix seconds, where that is known."""


class SettingView(TypedDict):
    """A setting that the command `set` changes."""

    value: str | int | float | bool
    doc: str
    """What it means, and in which form it is written."""
    origin: str
    """command line, environment, config.toml or default."""
    lasting: bool
    """False: the command line or the environment gives it, and wins again at the next start."""


class Rule(TypedDict):
    """A rule of the owner, set up or not."""

    code: str
    watched: bool
    """The owner has set it up."""
    active: bool
    """Its condition holds now: it pauses the node, unless it is overridden."""
    overridden: bool
    """A person resumed; it counts again once it has been over."""
    text: str
    """A sentence: why it is active, else what it does."""
    until: float | None
    """When it will be over, Unix seconds, where that is known."""


class Controls(TypedDict):
    """What the owner set up for this machine. Settings by name."""

    caps: dict[str, SettingView]
    """up, down, gb_per_week, state_rate, data_cap, connections, threads, memory, device."""
    hours: dict[str, SettingView]
    """train_hours, network_hours."""
    conditions: dict[str, SettingView]
    """pause_on_battery, pause_on_load, pause_on_gpu."""
    rules: list[Rule]
    """All of them, in a fixed order."""
