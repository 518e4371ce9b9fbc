"""What others are told of a node's end."""

from __future__ import annotations

import pytest

from atoll.daemon.farewell import FAILED, SCRIPT_ENDED, farewell
from atoll.daemon.training.errors import DeviceError


@pytest.mark.parametrize(
    ("reason", "code", "said"),
    [
        ("you asked for it", "", "its owner stopped it"),
        ("SIGTERM was received", "", "its owner stopped it"),
        ("it was asked to leave", "", "its owner stopped it"),
        (SCRIPT_ENDED, "", "its training script has ended"),
        (FAILED, "", "an error ended it"),
        (FAILED, "disk_full", "an error ended it"),
        (FAILED, DeviceError.code, "its device can't be used"),
    ],
)
def test_others_are_told_in_the_third_person(reason: str, code: str, said: str) -> None:
    assert farewell(reason, code) == said
