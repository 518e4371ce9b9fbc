"""The data dir of a node: who lies where, and the lock that lets one process use it at a time.

identity.key   libp2p private key, 0600            lock           flock of the running daemon
organiser.key  only where the swarm was made       api.json       where the running daemon answers
manifest.pb    signed manifest                     api.token      bearer token, 0600
members.pb     who takes part, in a private swarm  inbox/         what commands signed, for the node
amendments/    what has amended the manifest since
pending.json   who asks to be approved             tickets.json   tickets that end, without their keys
config.toml    settings by hand                    node.json      ports, cached peers, pause
checkpoints/   outer state of some versions        rounds/        commits since then, with payloads
account.json   token account                       events.jsonl   what happened, and events.1.jsonl
snapshots.jsonl  what the state was now and then, and snapshots.1.jsonl: for replays
receipts/      signed by voters: what the swarm accepted of this node
privacy.json   how much this node's contributions have told, where noise was asked for
standings.json  whom this node has found to be wrong, and how often
audits/        what came for chunks of this node, for those who check
account.damaged.json  one that could not be read, kept aside
traffic.json   bytes of the last seven days, by class
history.sqlite figures over two years, in buckets (and what SQLite keeps beside it)
trainer/       inner optimizer state               data/shards/   shards of the text, by digest
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.daemon.config import where
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage import files
from atoll.peers import identity
from atoll.protocol.signing import Ed25519Keyring

if TYPE_CHECKING:
    from atoll.protocol.manifest import SwarmManifest

_LOCK_TRIES = 5
_LOCK_PAUSE_S = 0.1


class DataDir:
    """Paths of one node, and its lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity = root / "identity.key"
        self.organiser = root / "organiser.key"
        self.manifest = root / "manifest.pb"
        self.amendments = root / "amendments"
        self.members = root / "members.pb"
        self.inbox = root / "inbox"
        self.pending = root / "pending.json"
        self.tickets = root / "tickets.json"
        self.config = root / "config.toml"
        self.api = root / "api.json"
        self.token_file = root / "api.token"
        self.node = root / "node.json"
        self.account = root / "account.json"
        self.standings = root / "standings.json"
        self.privacy = root / "privacy.json"
        self.audits = root / "audits"
        self.receipts = root / "receipts"
        self.traffic = root / "traffic.json"
        self.events = root / "events.jsonl"
        self.history = root / "history.sqlite"
        self.checkpoints = root / "checkpoints"
        self.rounds = root / "rounds"
        self.trainer = root / "trainer"
        self.data = root / "data"
        self.shards = self.data / "shards"
        self.run = root / "run"
        self._lock: int | None = None
        self._facts = threading.Lock()

    def create(self) -> None:
        """Makes the folders. Raises AtollError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.checkpoints, self.rounds, self.trainer, self.data, self.run):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise files.disk_error(Path(error.filename or self.root), error) from error

    def lock(self) -> None:
        """Takes the lock until this process ends. Raises AtollError if another process has it."""
        try:
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise files.disk_error(self.root / "lock", error) from error
        try:
            self._take(descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise AtollError(
                Exit.LOCKED,
                "data_dir_locked",
                f"Another atoll process is using {self.root}.",
                f"Stop it first (`atoll leave{where(self.root)}`), or give this one its own --data-dir.",
            ) from error
        self._lock = descriptor
        try:
            # Where a daemon that was killed could be asked: nobody is there, or by now another process.
            self.api.unlink(missing_ok=True)
        except OSError as error:
            raise files.disk_error(self.api, error) from error

    def _take(self, descriptor: int) -> None:
        """Locks, with a little patience: another command may be looking whether somebody has the lock."""
        for _ in range(_LOCK_TRIES):
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_locked(self) -> bool:
        """Whether a daemon is running in this data dir."""
        try:
            with (self.root / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def keyring(self, path: Path) -> Ed25519Keyring:
        """The key in `path` (identity or organiser), made at the first start. Raises AtollError."""
        try:
            return identity.load_or_create(path)
        except identity.IdentityError as error:
            raise AtollError(Exit.PREFLIGHT, "identity_damaged", f"{error}.", "") from error
        except OSError as error:
            raise files.disk_error(path, error) from error

    def token(self) -> str:
        """The bearer token of the API, made at first use."""
        if not self.token_file.exists():
            files.write_bytes(self.token_file, secrets.token_urlsafe(24).encode(), 0o600)
        return self.token_file.read_text().strip()

    def load_manifest(self) -> SwarmManifest:
        """The swarm of this data dir. Raises AtollError."""
        # With the modes it loads numpy, which a bootstrap node does without.
        from atoll.protocol import manifest

        try:
            data = self.manifest.read_bytes()
        except FileNotFoundError as error:
            raise self.no_swarm() from error
        try:
            return manifest.load(data)
        except manifest.IncompatibleManifest as error:
            raise AtollError(
                Exit.INCOMPATIBLE,
                "incompatible",
                f"This software does not speak the swarm's language: {error}.",
                "Install the version that the organiser names.",
            ) from error
        except manifest.ManifestError as error:
            raise AtollError(
                Exit.PREFLIGHT,
                "manifest_invalid",
                f"The manifest in {self.manifest} can't be used: {error}.",
                "Restore it from a copy, or join again with a ticket.",
            ) from error

    def no_swarm(self) -> AtollError:
        """What to do where there is no manifest."""
        here = where(self.root)
        return AtollError(
            Exit.USAGE,
            "no_swarm",
            f"There is no swarm in {self.root}.",
            f"Make one with `atoll init NAME{here}`, or take part in one with `atoll join TICKET{here}`.",
        )

    def node_facts(self) -> dict[str, Any]:
        """Small facts that outlive a run (ports, cached peers); empty if there are none."""
        facts = files.read_json(self.node)
        return facts if isinstance(facts, dict) else {}

    def remember(self, **facts: Any) -> None:
        """Updates the small facts, from whatever thread. Raises AtollError."""
        with self._facts:
            known = self.node_facts()
            if any(known.get(name) != value for name, value in facts.items()):
                files.write_json(self.node, {**known, **facts})
