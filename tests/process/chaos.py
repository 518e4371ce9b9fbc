"""Chaos: a swarm of real daemons, and a seed that decides what happens to them.

    python -m tests.process.chaos --minutes 10 --peers 6 --seed 1

Every few seconds something is done to somebody: kill -9 of the daemon, of its trainer, of its p2pd; SIGSTOP
of all of it; a damaged checkpoint before a start; a full disk; and with network namespaces (as root) a pulled
plug, two nodes that can't reach each other, a slow line. A majority is left alone at any time. A watchdog
ends the run as failed when no round commits for a minute although a majority is up. Then everything is
healed, all nodes have to come to one digest, and the books are compared with the chain. Prints a report.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.daemon.cli.api import client_of
from atoll.daemon.storage import checkpoint as checkpoints
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.ledger import Ledger
from atoll.web_ui.client import ApiError

from .harness import descendants, must
from .netns import Lines, available

POLL_S = 0.2
FAULT_EVERY_S = 10.0
WATCHDOG_S = 60.0
START_S = 180.0
SETTLE_S = 120.0
INNER_STEPS = 10
SMALL_DISK_MIB = 96
LAST_LINES = 40
STEADY_S = 2.0


class ChaosFailed(AssertionError):
    """The swarm did what it must not do; the message says what."""


@dataclass
class Seen:
    """What a node said of itself last."""

    version: int = -1
    digest: str = ""
    certified: bool = False
    at: float = 0.0
    resting: bool = False
    """Paused, and in no session."""


@dataclass
class Member:
    """One node: its folder, its process when it runs, and what is done to it at present."""

    index: int
    folder: Path
    poller: ThreadPoolExecutor
    process: subprocess.Popen[bytes] | None = None
    seen: Seen = field(default_factory=Seen)
    troubles: set[str] = field(default_factory=set)
    damage: bool = False

    @property
    def data_dir(self) -> DataDir:
        return DataDir(self.folder)


class Chaos:
    """The run. `lines` None: everything on loopback, and no faults of the network."""

    def __init__(
        self, root: Path, peers: int, seed: int, lines: Lines | None, undo: ExitStack, mode: str
    ) -> None:
        self.mode = mode
        self.rng = random.Random(seed)
        self.lines = lines
        self.root = root
        self.undo = undo
        self.members = [self._member(k) for k in range(peers)]
        self.faults: Counter[str] = Counter()
        self.commits: dict[str, float] = {}
        """When a commit was first held by two nodes, by digest: what one has for itself is no round."""
        self._holders: dict[str, set[int]] = {}
        self.certified: dict[str, set[str]] = {}
        """Certified commits by their parent: there must never be two."""
        self.recoveries: list[float] = []
        self._kills: list[float] = []
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._unsteady_at = time.monotonic()

    def _member(self, k: int) -> Member:
        folder = self.root / f"node{k}"
        folder.mkdir()
        lines = self.lines
        poller = ThreadPoolExecutor(1, f"poll-{k}", initializer=(lambda: lines.enter(k)) if lines else None)
        self.undo.callback(poller.shutdown)
        return Member(k, folder, poller)

    # ---- nodes

    def start(self, member: Member, *command: str) -> None:
        """Starts a daemon in its folder and namespace."""
        if member.damage:
            self._damage(member)
        inside = self.lines.inside(member.index) if self.lines else []
        host = self.lines.address(member.index) if self.lines else "127.0.0.1"
        words = [*inside, sys.executable, "-m", "atoll", *(command or ("run",))]
        options = ["--data-dir", str(member.folder), "--host", host]
        with (member.folder / "log.txt").open("ab") as log:
            member.process = subprocess.Popen(
                [*words, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def stop_all(self) -> None:
        """Ends every process, whatever state it is in."""
        for member in self.members:
            process = member.process
            if process is not None and process.poll() is None:
                self._signal(member, signal.SIGCONT)
                process.terminate()
        for member in self.members:
            if member.process is not None:
                try:
                    member.process.wait(30)
                except subprocess.TimeoutExpired:
                    member.process.kill()
                    member.process.wait()

    def finish(self) -> None:
        """Stops everybody in order; a node that ends with anything but 0 fails the run."""
        self.stop_all()
        for member in self.members:
            status = member.process.returncode if member.process is not None else 0
            if status != 0:
                raise ChaosFailed(
                    f"node {member.index} ended with {status} when asked to stop: {self._last(member)}"
                )

    def _last(self, member: Member) -> str:
        """The last lines that a node wrote."""
        lines = (member.folder / "log.txt").read_text(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])

    def _signal(self, member: Member, number: signal.Signals) -> None:
        """To the daemon and everything below it."""
        assert member.process is not None
        for pid in [member.process.pid, *descendants(member.process.pid)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def look(self) -> None:
        """Asks every node how it is; notes commits, and two certified heads of one version."""
        asked = [(member, member.poller.submit(_state, member.data_dir)) for member in self.members]
        now = time.monotonic()
        for member, answer in asked:
            state = answer.result()
            if state is None:
                continue
            seen = Seen(
                state["version"],
                state["digest"],
                state["certified"],
                now,
                state["paused"] and state["session"] is None,
            )
            member.seen = seen
            for link in state["chain"]:
                if link["version"] > 0:
                    self._held(link["digest"], member.index, now)
            for link, parent in zip(state["chain"], state["chain"][1:], strict=False):
                if link["certified"]:
                    self.certified.setdefault(parent["digest"], set()).add(link["digest"])
        for member in self.members:
            process = member.process
            if process is not None and process.poll() not in (None, -signal.SIGKILL):
                status = process.returncode
                raise ChaosFailed(f"node {member.index} ended by itself with {status}: {self._last(member)}")

    def _held(self, digest: str, index: int, now: float) -> None:
        holders = self._holders.setdefault(digest, set())
        holders.add(index)
        if len(holders) == 2 and digest not in self.commits:
            self.commits[digest] = now
            self.recoveries += [now - at for at in self._kills]
            self._kills.clear()

    # ---- faults

    def _after(self, low: float, high: float, work: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + self.rng.uniform(low, high), work))

    def _over(self, member: Member, trouble: str, heal: Callable[[], None]) -> Callable[[], None]:
        def done() -> None:
            heal()
            member.troubles.discard(trouble)

        return done

    def one_fault(self) -> None:
        """Something that the seed chooses, to somebody that can bear it; at most a minority is in trouble."""
        troubled = [m for m in self.members if m.troubles]
        free = [m for m in self.members if not m.troubles]
        if 2 * (len(troubled) + 1) >= len(self.members):
            return
        member = self.rng.choice(free)
        kinds = ["kill", "kill", "kill_damaged", "stop", "trainer", "p2pd"]
        if self.lines is not None:
            kinds += ["plug", "pair", "slow"]
        if self._small_disk(member):
            kinds += ["disk", "disk"]
        kind = self.rng.choice(kinds)
        self.faults[kind] += 1
        getattr(self, f"_{kind}")(member)

    def _kill(self, member: Member) -> None:
        assert member.process is not None
        member.troubles.add("kill")
        member.process.kill()
        member.process.wait()
        self._kills.append(time.monotonic())
        self._after(1, 15, self._over(member, "kill", lambda: self.start(member)))

    def _kill_damaged(self, member: Member) -> None:
        member.damage = True
        self._kill(member)

    def _damage(self, member: Member) -> None:
        """Flips a byte in the middle of the newest checkpoint."""
        member.damage = False
        newest = max(member.data_dir.checkpoints.glob("*.safetensors"), default=None)
        if newest is not None:
            with newest.open("r+b") as file:
                file.seek(newest.stat().st_size // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 0xFF]))

    def _stop(self, member: Member) -> None:
        member.troubles.add("stop")
        self._signal(member, signal.SIGSTOP)
        self._after(1, 20, self._over(member, "stop", lambda: self._signal(member, signal.SIGCONT)))

    def _trainer(self, member: Member) -> None:
        self._kill_below(member, "training.trainer")

    def _p2pd(self, member: Member) -> None:
        member.troubles.add("p2pd")
        self._kill_below(member, "hivemind_cli/p2pd")
        self._after(5, 5, self._over(member, "p2pd", lambda: None))

    def _kill_below(self, member: Member, what: str) -> None:
        assert member.process is not None
        for pid in descendants(member.process.pid):
            try:
                if what in Path(f"/proc/{pid}/cmdline").read_bytes().decode():
                    os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue

    def _plug(self, member: Member) -> None:
        lines = self._lines()
        member.troubles.add("plug")
        lines.cut(member.index)
        self._after(2, 25, self._over(member, "plug", lambda: lines.join(member.index)))

    def _pair(self, member: Member) -> None:
        lines = self._lines()
        other = self.rng.choice([m for m in self.members if m is not member])
        lines.part(member.index, other.index)
        self._after(5, 40, lambda: lines.unite(member.index, other.index))

    def _slow(self, member: Member) -> None:
        lines = self._lines()
        lines.shape(member.index, self.rng.choice([2, 5, 20]))
        self._after(10, 40, lambda: lines.unshape(member.index))

    def _disk(self, member: Member) -> None:
        member.troubles.add("disk")
        filler = member.folder / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
            except OSError:
                pass  # it is full now, as it should be
        self._after(3, 15, self._over(member, "disk", lambda: filler.unlink(missing_ok=True)))

    def _small_disk(self, member: Member) -> bool:
        return member.folder.is_mount()

    def _lines(self) -> Lines:
        assert self.lines is not None
        return self.lines

    # ---- the run

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end:
                raise ChaosFailed(f"not in {deadline_s:.0f} s: {what}; {self.describe()}")
            self._heal_due()
            self.look()
            time.sleep(POLL_S)

    def _heal_due(self) -> None:
        now = time.monotonic()
        due = [work for at, work in self._later if at <= now]
        self._later = [(at, work) for at, work in self._later if at > now]
        for work in due:
            work()

    def begin(self) -> None:
        """All nodes up, one round certified."""
        first = self.members[0]
        options = ["--inner-steps", str(INNER_STEPS), "--min-peers", str(len(self.members)), "--seed", "1"]
        must("init", "chaos", "--data-dir", str(first.folder), "--mode", self.mode, *options)
        self.start(first)
        ticket = self._ticket(first)
        for member in self.members[1:]:
            self.start(member, "join", ticket, "--yes")
        self.until(lambda: self.commits, "a first round", START_S)

    def _ticket(self, first: Member) -> str:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            inside = self.lines.inside(0) if self.lines else []
            words = [*inside, sys.executable, "-m", "atoll", "ticket", "--data-dir", str(first.folder)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.splitlines()[-1]
            time.sleep(POLL_S)
        raise ChaosFailed("the first node gives no ticket")

    def torment(self, seconds: float) -> None:
        """Faults for so long. Raises ChaosFailed when the swarm stands still."""
        end = next_fault = time.monotonic()
        end += seconds
        while (now := time.monotonic()) < end:
            if now >= next_fault:
                self.one_fault()
                next_fault += FAULT_EVERY_S
            self._heal_due()
            self.look()
            since = max(self.commits.values())
            if now - since > WATCHDOG_S:
                raise ChaosFailed(f"no round for {WATCHDOG_S:.0f} s with a majority up; {self.describe()}")
            time.sleep(POLL_S)

    def settle(self) -> None:
        """No more faults: everybody comes to one head, which then stands still."""
        self._later, due = [], self._later
        for _, work in due:
            work()
        before = set(self._holders)
        self.until(
            lambda: self._one_head() and self.members[0].seen.digest not in before,
            "all nodes at one digest after the faults",
            SETTLE_S,
        )
        for member in self.members:
            member.poller.submit(_command, member.data_dir, "pause").result()
        self.until(self._steady, "all nodes at one digest when paused", SETTLE_S)

    def _steady(self) -> bool:
        """One head for a while: a session that was under way may still move those of some."""
        now = time.monotonic()
        if not self._one_head() or not all(m.seen.resting for m in self.members):
            self._unsteady_at = now
        return now - self._unsteady_at > STEADY_S

    def _one_head(self) -> bool:
        now = time.monotonic()
        fresh = all(now - member.seen.at < 5.0 for member in self.members)
        return fresh and len({member.seen.digest for member in self.members}) == 1

    def describe(self) -> str:
        now = time.monotonic()
        return "; ".join(
            f"node {m.index}: {m.seen.version} {m.seen.digest[:8]}, {now - m.seen.at:.0f} s ago, "
            f"{' '.join(sorted(m.troubles)) or 'well'}"
            for m in self.members
        )

    def report(self) -> dict[str, Any]:
        """What happened, from files and what was seen. After `stop_all`."""
        newest = [max(m.data_dir.checkpoints.glob("*.safetensors")) for m in self.members]
        bits = {(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in newest}
        ledgers = [Ledger.from_json(json.loads(m.data_dir.account.read_text())) for m in self.members]
        manifest = self.members[0].data_dir.load_manifest()
        head = checkpoints.verify(newest[0], manifest.swarm_id).head
        logs = [m.data_dir.events.read_text() for m in self.members]
        caught_up = sum(text.count("Caught up with") for text in logs)
        not_booked = sum(text.count("token account can't follow") for text in logs)
        slowest = self.recoveries or [0.0]
        booked = sum(ledger.account.accepted for ledger in ledgers) // len(manifest.chunks)
        gone = sum(ledger.account.orphaned for ledger in ledgers) // len(manifest.chunks)
        return {
            "rounds": head.version,
            "faults": dict(self.faults),
            "kills": len(self.recoveries) + len(self._kills),
            "kills_without_a_commit_after": len(self._kills),
            "kill_to_commit_median_s": round(statistics.median(slowest), 2),
            "kill_to_commit_p95_s": round(_p95(slowest), 2),
            "resyncs": caught_up,
            "divergences": len(bits) - 1,
            "newest_checkpoints": sorted(f"{name} {digest[:12]}" for name, digest in bits),
            "certified_forks": sum(len(digests) > 1 for digests in self.certified.values()),
            "tokens_in_chain": head.cumulative_tokens,
            "tokens_booked_as_accepted": booked,
            "tokens_orphaned": gone,
            "commits_not_booked": not_booked,
            "accounts_balance": all(ledger.account.balanced() for ledger in ledgers),
        }


def _p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def _state(folder: DataDir) -> dict[str, Any] | None:
    try:
        client = client_of(folder)
        return client.state() if client else None
    except (ApiError, OSError):
        return None


def _command(folder: DataDir, name: str) -> None:
    client = client_of(folder)
    assert client is not None
    client.command(name)


def run(
    minutes: float, peers: int, seed: int, network: bool, keep: Path | None = None, mode: str = "diloco"
) -> dict[str, Any]:
    """One run from start to report. Raises ChaosFailed. What failed is kept where `keep` says."""
    with ExitStack() as undo:
        root = Path(tempfile.mkdtemp(prefix="atoll-chaos-"))
        undo.callback(shutil.rmtree, root, ignore_errors=True)
        lines = Lines(peers, f"chaos{os.getpid()}") if network else None
        if lines is not None:
            undo.callback(lines.close)
        chaos = Chaos(root, peers, seed, lines, undo, mode)
        if os.geteuid() == 0:
            small = chaos.members[-1].folder
            options = f"size={SMALL_DISK_MIB}m"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)], check=True)
            undo.callback(subprocess.run, ["umount", "-l", str(small)], check=False)
        undo.callback(chaos.stop_all)
        try:
            chaos.begin()
            chaos.torment(60 * minutes)
            chaos.settle()
            chaos.finish()
            said = chaos.report()
        except ChaosFailed:
            _keep(root, keep)
            raise
        report = {"seed": seed, "mode": mode, "peers": peers, "minutes": minutes, "network": network, **said}
        if not is_good(report):
            _keep(root, keep)
        return report


def _keep(root: Path, keep: Path | None) -> None:
    """The nodes' folders, for whoever wants to know why."""
    if keep is not None:
        unwanted = shutil.ignore_patterns("filler", "*.sock", "run")
        shutil.copytree(root, keep, dirs_exist_ok=True, ignore=unwanted)


def main() -> int:
    parser = argparse.ArgumentParser(description="A swarm of real daemons, and a seed that torments it.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--peers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", default="diloco")
    parser.add_argument("--no-network", action="store_true", help="no namespaces, as without root")
    parser.add_argument("--keep", type=Path, help="where the nodes' folders go when the run fails")
    args = parser.parse_args()
    network = not args.no_network and available()
    if not network and not args.no_network:
        print("Without root there are no faults of the network.", file=sys.stderr)
    try:
        report = run(args.minutes, args.peers, args.seed, network, args.keep, args.mode)
    except ChaosFailed as error:
        print(f"Failed (seed {args.seed}): {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    return 0 if is_good(report) else 1


def is_good(report: dict[str, Any]) -> bool:
    """Whether nothing happened that never may.

    Of what is in the chain, a node does not book what it contributed to commits that it skipped by taking a
    whole state; nothing may be booked that is not in the chain.
    """
    never = ("divergences", "certified_forks", "kills_without_a_commit_after", "commits_not_booked")
    booked, there = report["tokens_booked_as_accepted"], report["tokens_in_chain"]
    return (
        not any(report[name] for name in never)
        and report["accounts_balance"]
        and there / 2 <= booked <= there
    )


if __name__ == "__main__":
    sys.exit(main())
