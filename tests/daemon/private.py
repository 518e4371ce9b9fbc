"""A private swarm in a data dir, of which tickets can be made."""

from __future__ import annotations

from pathlib import Path

from atoll.daemon.genesis import NewSwarm, make_swarm
from atoll.daemon.storage.data_dir import DataDir
from atoll.protocol.manifest import SwarmManifest

ADDRESS = "/ip4/127.0.0.1/tcp/31337/p2p/12D3KooWPHcNvqvwryLFPph3TU5P4CKuFRxb24NzgrPH9mntovwZ"


def private_swarm(root: Path) -> tuple[DataDir, SwarmManifest]:
    """As its organiser's node left it after it ran."""
    folder = DataDir(root)
    folder.create()
    manifest = make_swarm(folder, NewSwarm("lab", admission="ticket"), 1_700_000_000)
    folder.remember(addresses=[ADDRESS])
    return folder, manifest
