"""`python -m atoll` is the `atoll` command."""

import sys

from atoll.daemon.cli import main

sys.exit(main())
