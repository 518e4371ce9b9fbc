"""Why a node ends, in the words for others: what is sent with the goodbye, and what their logs then say.

To its own people a node says "you asked for it"; others are told of its owner, in the third person, and
nothing of what went wrong but its kind: an error's sentence may hold paths and addresses.
"""

from __future__ import annotations

from atoll.daemon.training.errors import DeviceError

FAILED = "an error ended it"
SCRIPT_ENDED = "the training script has ended"


def farewell(reason: str, code: str = "") -> str:
    """`reason`: why it ends, to its own people; `code`: of the error that ended it, empty where none did."""
    if code == DeviceError.code:
        return "its device can't be used"
    if code or reason == FAILED:
        return FAILED
    return "its training script has ended" if reason == SCRIPT_ENDED else "its owner stopped it"
