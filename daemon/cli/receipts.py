"""`atoll receipts`: what the swarm accepted of this node, signed by those who voted for it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from atoll.daemon.config import data_dir_of
from atoll.daemon.errors import AtollError, Exit
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.storage.receipts import Receipts, read
from atoll.peers.identity import readable_name
from atoll.protocol.receipt import Receipt, ReceiptError, check
from atoll.protocol.signing import peer_bytes, peer_text


def receipts(arguments: argparse.Namespace) -> int:
    """`atoll receipts [--node ID FILE …]`"""
    if arguments.files:
        found = _given(arguments.node, [Path(name) for name in arguments.files])
    else:
        folder = DataDir(data_dir_of(arguments.data_dir))
        node = folder.node_facts().get("node_id")
        if node is None:
            raise folder.no_swarm()
        kept = Receipts(folder.receipts, peer_bytes(node)).all()
        found = [(path, receipt or "it is damaged, or of another node") for path, receipt in kept]
    good = [receipt for _, receipt in found if isinstance(receipt, Receipt)]
    bad = [(path, why) for path, why in found if isinstance(why, str)]
    if arguments.json:
        for receipt in good:
            print(json.dumps(_shown(receipt)))
    else:
        _print(good)
    for path, why in bad:
        print(f"{path.name}: no receipt: {why}.")
    return int(Exit.USAGE if bad and arguments.files else Exit.OK)


def _given(node: str | None, paths: list[Path]) -> list[tuple[Path, Receipt | str]]:
    """Files that somebody gave, each checked. Raises AtollError."""
    if node is None:
        raise AtollError(Exit.USAGE, "no_node", "Whose receipts are these?", "Name the node: --node ID.")
    try:
        peer = peer_bytes(node)
    except ValueError as error:
        raise AtollError(Exit.USAGE, "no_node", f"{node!r} is no peer id.") from error
    found: list[tuple[Path, Receipt | str]] = []
    for path in paths:
        try:
            found.append((path, check(read(path), peer)))
        except ReceiptError as error:
            found.append((path, str(error)))
    return found


def _shown(receipt: Receipt) -> dict[str, Any]:
    return {
        "swarm_id": receipt.swarm_id.hex(),
        "node": peer_text(receipt.node),
        "version": receipt.version,
        "digest": receipt.digest.hex(),
        "tokens": receipt.tokens,
        "chunks": receipt.chunks,
        "of_chunks": receipt.of_chunks,
        "votes": receipt.votes,
        "voters": receipt.voters,
        "certified": receipt.certified,
    }


def _print(good: list[Receipt]) -> None:
    if not good:
        print("There are no receipts yet: the first comes with the first round that accepts an update.")
        return
    print(f"{'VERSION':>9}  {'TOKENS':>12}  {'CHUNKS':>9}  {'VOTES':>7}  DIGEST")
    for r in good:
        chunks, votes = f"{r.chunks}/{r.of_chunks}", f"{r.votes}/{r.voters}"
        mark = "" if r.certified else "  (provisional)"
        print(f"{r.version:>9}  {r.tokens:>12,}  {chunks:>9}  {votes:>7}  {r.digest.hex()[:16]}{mark}")
    certified = sum(r.tokens for r in good if r.certified)
    name = readable_name(good[0].node)
    print(f"{certified:,} tokens of {name} in {sum(r.certified for r in good)} certified commits.")
