"""`atoll init` and `ticket`: making a swarm and inviting others."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.daemon.cli.members import grant_for_ticket
from atoll.daemon.cli.progress import steps
from atoll.daemon.config import data_dir_of, is_multiaddr, where
from atoll.daemon.errors import AtollError, Exit, check_range
from atoll.daemon.status import duration, size
from atoll.daemon.storage.data_dir import DataDir
from atoll.daemon.ticket_book import MadeTicket, TicketBook
from atoll.protocol.text import plain

if TYPE_CHECKING:
    from atoll.daemon.genesis import NewSwarm
    from atoll.daemon.storage.shard_files import ShardFiles
    from atoll.daemon.ticket_addresses import Carried
    from atoll.protocol import messages_pb2 as pb
    from atoll.protocol.manifest import SwarmManifest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 3_652_500 * 86_400
MAX_NOTE = 2000


def seconds_of(text: str, option: str, most_s: float = _LONGEST_S) -> float:
    """90s, 30m, 2h, 7d of an option as seconds. Raises AtollError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    found = float(match.group(1)) * _UNITS[match.group(2)] if match else 0.0
    if not 0 < found <= most_s:
        most = f"{most_s / _UNITS['d']:g}d" if most_s < _LONGEST_S else "10000 years"
        message = f"{option} is {text!r}; it must be a time such as 90s, 30m, 2h or 7d, at most {most}."
        raise AtollError(Exit.USAGE, "bad_duration", message)
    return found


def init(arguments: argparse.Namespace) -> int:
    """`atoll init NAME`"""
    from atoll.daemon.genesis import NewSwarm, make_swarm
    from atoll.protocol.manifest import DILOCO, FILTER, MEAN, is_base_url
    from atoll.protocol.membership import OPEN, TICKET
    from atoll.protocol.shards import MAX_SHARD_BYTES

    folder = DataDir(data_dir_of(arguments.data_dir))
    for address in arguments.bootstrap:
        if not is_multiaddr(address) or "/p2p/" not in address:
            raise AtollError(Exit.USAGE, "bad_address", f"{address!r} is no multiaddr with a /p2p/ peer id.")
    for url in arguments.data_url:
        if not is_base_url(url):
            fix = "Write https://host/folder, where the shard files will lie."
            raise AtollError(Exit.USAGE, "bad_url", f"{url!r} is no https address of a folder.", fix)
    if not 0 < arguments.shard_mib <= MAX_SHARD_BYTES >> 20:
        largest = MAX_SHARD_BYTES >> 20
        raise AtollError(Exit.USAGE, "bad_shard", f"--shard-mib must be more than 0, at most {largest}.")
    wanted = NewSwarm(
        name=arguments.name,
        model=arguments.model,
        data=Path(arguments.data) if arguments.data else None,
        data_urls=tuple(arguments.data_url),
        shard_bytes=max(1, int(arguments.shard_mib * (1 << 20))),
        bootstrap=tuple(arguments.bootstrap),
        inner_steps=arguments.inner_steps,
        batch=arguments.batch,
        lr=arguments.lr,
        total_steps=arguments.total_steps,
        mode=arguments.mode,
        fragments=arguments.fragments,
        pattern=arguments.pattern,
        overlap=arguments.overlap,
        delay=arguments.delay,
        mix=arguments.mix,
        outer_lr=arguments.outer_lr,
        outer_momentum=arguments.outer_momentum,
        braking=arguments.braking,
        optimizer=arguments.optimizer,
        codec=arguments.codec,
        result_codec=arguments.result_codec,
        feedback=arguments.feedback,
        random_rounding=arguments.random_rounding,
        two_level_above=arguments.two_level_above,
        door=arguments.door,
        door_s=arguments.door_seconds,
        by_speed=arguments.by_speed,
        by_attendance=arguments.by_attendance,
        merge=arguments.merge or (FILTER if arguments.untrusted else MEAN),
        bucket=arguments.bucket,
        audit=arguments.untrusted if arguments.audit is None else arguments.audit,
        admission=arguments.admission or (TICKET if arguments.private else OPEN),
        by_roughness=arguments.by_roughness,
        missed=arguments.missed,
        min_peers=arguments.min_peers,
        seed=arguments.seed,
        genesis=Path(arguments.genesis) if arguments.genesis else None,
    )
    wanted, chosen = _with_inner_steps(wanted, arguments)
    with steps("Cutting the text into shards") as told:
        manifest = make_swarm(folder, wanted, int(time.time()), told)
    body = manifest.body
    print(f"Swarm {body.name} ({manifest.swarm_id.hex()[:16]}) is made in {folder.root}.")
    print(f"It trains {body.parameters:,} parameters on {_described(body.data)}.")
    print(f"Mode {body.sync.mode or DILOCO}: {_rhythm(manifest)}.")
    if chosen:
        print(f"Chosen: {chosen}")
    print(f"Organiser key {manifest.organiser_fingerprint}; keep {folder.organiser} safe.")
    here = where(folder.root)
    if body.data.urls:
        print(f"Put the files of `atoll shards --out FOLDER{here}` where the manifest's data.urls say.")
    print(f"Next: `atoll run{here}`, then `atoll ticket{here}` for everyone who takes part.")
    return int(Exit.OK)


def _with_inner_steps(wanted: NewSwarm, arguments: argparse.Namespace) -> tuple[NewSwarm, str]:
    """The swarm with inner steps that suit the lines of --uplink, and why; as it is without that."""
    from atoll.daemon.cli.swarm import MAX_PEERS, rates

    if arguments.uplink is None:
        for name, value in (("--peers", arguments.peers), ("--step-s", arguments.step_s)):
            if value is not None:
                raise AtollError(Exit.USAGE, "usage", f"{name} goes with --uplink.")
        return wanted, ""
    if wanted.inner_steps is not None:
        raise AtollError(Exit.USAGE, "usage", "Give --inner-steps, or --uplink to have them chosen.")
    peers = 8 if arguments.peers is None else arguments.peers
    check_range("--peers", peers, 2, MAX_PEERS)
    if arguments.step_s is not None:
        check_range("--step-s", arguments.step_s, 1e-3, 1e5)
    from atoll.daemon.choosing import for_new_swarm

    made, chosen = for_new_swarm(wanted, peers, rates("--uplink", arguments.uplink), arguments.step_s)
    return made, chosen.sentence


def _rhythm(manifest: SwarmManifest) -> str:
    """When is averaged what, in a few words."""
    fragments, steps = len(manifest.chunks.fragments), manifest.segment_steps
    codec = manifest.body.rounds.codec
    if manifest.small_commits:
        return f"each update is taken in when it comes, after about {steps} inner steps, sent as {codec}"
    if fragments == 1:
        meanwhile = " while the next ones go on" if manifest.ahead else ""
        return f"everything is averaged after {steps} inner steps{meanwhile}, sent as {codec}"
    return f"one of {fragments} fragments is averaged after each {steps} inner steps, sent as {codec}"


def _described(data: pb.Data) -> str:
    """The data of a swarm in a few words."""
    if not data.shards:
        return "data of each node"
    count = len(data.shards) - 1
    return f"{data.name} ({size(data.size_bytes)} in {count} shard{'s' if count > 1 else ''})"


def shards(arguments: argparse.Namespace) -> int:
    """`atoll shards [--out FOLDER]`"""
    from atoll.daemon.storage.shard_files import ShardFiles

    folder = DataDir(data_dir_of(arguments.data_dir))
    data = folder.load_manifest().body.data
    if not data.shards:
        raise AtollError(Exit.USAGE, "own_data", "Each node of this swarm brings its own data.")
    files = ShardFiles(folder.shards, data.shards)
    if arguments.out:
        return _copy_shards(files, Path(arguments.out))
    facts = [
        {
            "shard": index,
            "for": "validation" if index == files.validation else "training",
            "size_bytes": length,
            "sha256": digest.hex(),
            "here": files.path(index).exists(),
        }
        for index, (digest, length) in enumerate(zip(files.digests, files.sizes, strict=True))
    ]
    if arguments.json:
        print(json.dumps({"name": data.name, "urls": list(data.urls), "shards": facts}))
    else:
        for fact in facts:
            here = "here" if fact["here"] else ""
            print(
                f"{fact['shard']:>5}  {fact['for']:10}  {fact['size_bytes']:>12,}  {fact['sha256']}  {here}"
            )
    return int(Exit.OK)


def _copy_shards(files: ShardFiles, folder: Path) -> int:
    """Copies all shards to a folder, each checked on its way."""
    from atoll.daemon.data_sources import LocalSource, Unavailable
    from atoll.daemon.storage.shard_files import ShardFiles as Files

    copies = Files(folder, files.table)
    copies.create()
    source = LocalSource(copies, str(files.folder))
    here, total = 0, sum(files.sizes)
    with steps("Copying shards") as told:
        for index, size_bytes in enumerate(files.sizes):
            try:
                if not copies.check(index):
                    source.copy(index)
            except Unavailable as error:
                raise AtollError(
                    Exit.TEMPORARY,
                    "shard_missing",
                    f"Shard {index} is not in {files.folder}, or is damaged.",
                    "A node keeps the shards that it reads; the organiser's has all.",
                ) from error
            here += size_bytes
            told(here, total)
    print(f"{len(files.table)} shards are in {folder}.")
    return int(Exit.OK)


def ticket(arguments: argparse.Namespace) -> int:
    """`atoll ticket` and `atoll ticket show T`"""
    from atoll.daemon.amending import load
    from atoll.daemon.ticket_addresses import Carried, carried, note
    from atoll.protocol import messages_pb2 as pb
    from atoll.protocol import ticket as tickets

    if arguments.show:
        return _show_ticket(arguments)
    if arguments.uses is not None:
        check_range("--uses", arguments.uses, 0, 2**32 - 1)
    folder = DataDir(data_dir_of(arguments.data_dir))
    manifest = folder.load_manifest()
    facts = folder.node_facts()
    found = carried(facts, load(folder, manifest).newest.body.bootstrap)
    if arguments.lan:
        found = Carried(())
    addresses, port = list(found.addresses), int(facts.get("port") or 0)
    if not (addresses or arguments.lan):
        raise _no_address(folder, found, port)
    expires = int(time.time() + seconds_of(arguments.expires, "--expires")) if arguments.expires else 0
    # Whoever has a ticket of a private swarm gets in with it: it is for one node unless more are asked for.
    uses = (0 if manifest.is_open else 1) if arguments.uses is None else arguments.uses
    capability, delegation, public = grant_for_ticket(
        folder, manifest, arguments.role, uses, expires, arguments.label
    )
    made = pb.Ticket(
        version=1,
        swarm_id=manifest.swarm_id,
        organiser=manifest.body.organiser,
        addresses=addresses,
        expires_unix_s=expires,
        uses=uses,
        swarm_name=manifest.body.name,
        label=arguments.label,
        capability=capability,
        delegation=delegation,
        untried=[addresses.index(address) for address in found.untried],
    )
    try:
        text = tickets.encode(made)
    except tickets.TicketError as error:
        raise AtollError(Exit.USAGE, "ticket_invalid", f"No ticket can be made: {error}.") from error
    made_ticket = MadeTicket(arguments.label, int(time.time()), expires, uses, public.hex())
    TicketBook(folder.tickets).note(made_ticket)
    remark = "" if arguments.lan else note(found, port)
    if arguments.json:
        told = {"labels": found.labels, "left_out": found.left_out, "note": remark}
        print(json.dumps({"ticket": text, "addresses": addresses, "expires_unix_s": expires, **told}))
    else:
        if arguments.qr:
            _print_qr(text)
        print(text)
        if remark:
            print(plain(remark, MAX_NOTE), file=sys.stderr)
    return int(Exit.OK)


def _no_address(folder: DataDir, found: Carried, port: int) -> AtollError:
    """Why a ticket would have nothing to dial."""
    from atoll.daemon.ticket_addresses import open_port

    why, fix = "it would have no address to dial", f"Start the node first: `atoll run{where(folder.root)}`."
    if found.left_out:
        tried = ", ".join(found.left_out)
        why, fix = f"others tried to dial this node at {tried}, and could not", open_port(port)
    return AtollError(Exit.USAGE, "no_address", f"No ticket can be made: {why}.", fix)


def _print_qr(text: str) -> None:
    """The ticket for a camera; nothing but blocks, so any terminal will do."""
    import segno

    # A ticket has a checksum of its own: the least redundancy makes the smallest picture.
    segno.make_qr(text, error="l", boost_error=False).terminal(sys.stdout, border=2, compact=True)


def _show_ticket(arguments: argparse.Namespace) -> int:
    from atoll.daemon.ticket_addresses import label
    from atoll.protocol import ticket as tickets
    from atoll.protocol.manifest import fingerprint

    if len(arguments.show) != 2 or arguments.show[0] != "show":
        raise AtollError(Exit.USAGE, "usage", "Write `atoll ticket`, or `atoll ticket show TICKET`.")
    try:
        shown = tickets.decode(arguments.show[1])
    except tickets.TicketError as error:
        raise AtollError(Exit.USAGE, "ticket_invalid", f"The ticket can't be read: {error}.") from error
    left = shown.expires_unix_s - time.time()
    expiry = "never" if not shown.expires_unix_s else f"in {duration(left)}" if left > 0 else "expired"
    facts: dict[str, Any] = {
        "organiser": fingerprint(shown.organiser),
        "swarm": shown.swarm_name,
        "swarm_id": shown.swarm_id.hex(),
        "organiser_key": shown.organiser.hex(),
        "addresses": list(shown.addresses),
        "labels": [label(address, place in shown.untried) for place, address in enumerate(shown.addresses)],
        "expires": expiry,
        "uses": shown.uses or "any number",
        "label": shown.label,
        "admits": "whoever holds it" if shown.capability else "nobody by itself: the swarm is open",
    }
    if arguments.json:
        print(json.dumps(facts))
    else:
        labels = facts.pop("labels")
        facts["addresses"] = [f"{x}  ({word})" for x, word in zip(shown.addresses, labels, strict=True)]
        for name, value in facts.items():
            for line in value if isinstance(value, list) else [value]:
                print(f"{name:14} {line}")
                name = ""
    return int(Exit.OK)
