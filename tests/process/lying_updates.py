"""An `atoll` that sends minus what it learned: `python -m tests.process.lying_updates run …`."""

import sys

import numpy as np

from atoll.daemon.cli import main
from atoll.daemon.rounds.codec_worker import CodecWorker

_difference = CodecWorker._difference


def flipped(self, anchor, local, chunk):
    delta = _difference(self, anchor, local, chunk)
    return np.negative(delta, out=delta)


if __name__ == "__main__":
    CodecWorker._difference = flipped
    sys.exit(main())
