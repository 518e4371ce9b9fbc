"""The `atoll` command: a table of subcommands, each in a thin module that is imported when it is called.

`atoll --help` imports neither torch nor hivemind; a test watches that. Errors that a person can mend are
AtollErrors: one sentence on stderr and the exit status of the contract (errors.py), never a traceback.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from atoll import __version__
from atoll.daemon.errors import AtollError, Exit
from atoll.dht.without_torch import lighten_hivemind


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    if argv is None:
        lighten_hivemind()  # this process is the command's own, and no command asks for more of it
    arguments = build_parser().parse_args(_joined(sys.argv[1:] if argv is None else argv))
    module, _, function = arguments.handler.partition(":")
    handler: Callable[[argparse.Namespace], int] = getattr(import_module(module), function)
    try:
        return int(handler(arguments))
    except AtollError as error:
        logs = sys.modules.get("atoll.daemon.logs")  # only where a daemon has set logging up
        if logs is None or not logs.tell_error(error.code, error.sentence()):
            print(f"atoll: {error.sentence()}", file=sys.stderr)
        return int(error.exit_status)
    except BrokenPipeError:
        # `atoll events | head`: whoever read us has had enough.
        sys.stderr.close()
        return int(Exit.OK)
    except KeyboardInterrupt:
        return 130


def _joined(argv: Sequence[str]) -> list[str]:
    """A time below zero stays the value of its option, so that the command says what it must be."""
    found: list[str] = []
    for word in argv:
        if found and found[-1] in ("--for", "--expires") and re.match(r"-[\d.]", word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="atoll",
        description="A peer-to-peer training daemon: your machine trains alone, meets others to average "
        "what they learned, and goes on.",
        epilog="Start with `atoll demo`, or take part with `atoll join TICKET`.",
    )
    parser.add_argument("--version", action="version", version=f"atoll {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_running(commands)
    _add_organising(commands)
    _add_observing(commands)
    _add_controls(commands)
    _add_model(commands)
    _add_audit(commands)
    _add_simulation(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, handler: str, help_text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.set_defaults(handler=f"atoll.daemon.cli.{handler}")
    parser.add_argument("--data-dir", metavar="DIR", help="where this node keeps everything (or ATOLL_HOME)")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Options for settings; `atoll config show` lists what each means."""
    group = parser.add_argument_group("settings (also config.toml and ATOLL_…)")
    group.add_argument("--host", help="address for other nodes")
    group.add_argument("--port", type=int, help="port for other nodes")
    group.add_argument("--announce", action="append", metavar="MULTIADDR", help="announce this address")
    group.add_argument(
        "--bootstrap", action="append", metavar="MULTIADDR", help="find the swarm by this address"
    )
    group.add_argument(
        "--mdns", action="store_const", const=True, help="find the swarm in this network, and be found there"
    )
    group.add_argument("--api-host", help="address of the dashboard")
    group.add_argument("--api-port", type=int, help="port of the dashboard")
    group.add_argument("--public-host", help="address of the page for everybody")
    group.add_argument("--public-port", type=int, help="port of a page for everybody, for reading only")
    group.add_argument("--label", help="a name of your own for this node")
    group.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--memory", metavar="SIZE", help="for the trainer on the processor, such as 4GiB")
    group.add_argument("--threads", type=int, help="CPU threads for training (0: one for each core)")
    group.add_argument(
        "--compile", action="store_const", const=True, help="compile the built-in model (torch.compile)"
    )
    group.add_argument("--shard", metavar="INDEX/COUNT", help="part of the text to train on")
    group.add_argument("--rounds", type=int, metavar="N", help="pause at version N")
    group.add_argument("--up", metavar="RATE", help="send at most so much, such as 20Mbit")
    group.add_argument("--down", metavar="RATE", help="receive at most so much, such as 50Mbit")
    group.add_argument("--gb-per-week", type=float, metavar="GB", help="pause when so much was moved")
    group.add_argument("--connections", type=int, metavar="N", help="most links to other nodes (96)")
    group.add_argument("--train-hours", metavar="HOURS", help='such as "mon-fri 22:00-07:00, sat-sun"')
    group.add_argument("--network-hours", metavar="HOURS", help="when to use the network, in the same way")
    group.add_argument(
        "--pause-on-battery", action="store_const", const=True, help="pause while it runs on battery"
    )
    group.add_argument(
        "--pause-on-load", type=int, metavar="PERCENT", help="pause when others use more of the processor"
    )
    group.add_argument(
        "--pause-on-gpu", action="store_const", const=True, help="pause while others compute on its GPU"
    )
    group.add_argument("--tensorboard", metavar="DIR", help="write figures for TensorBoard")
    group.add_argument("--wandb", metavar="DIR", help="write an offline run of Weights & Biases")
    group.add_argument("--log-format", choices=["text", "json"])
    group.add_argument("--log-level", choices=["debug", "info", "warning", "error"])


def _add_running(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = _command(commands, "demo", "demo:demo", "run a whole swarm on this machine")
    demo.add_argument("--peers", type=int, default=3, help="nodes (3)")
    demo.add_argument("--rounds", type=int, default=15, help="rounds (15)")
    demo.add_argument("--seed", type=int, default=1, help="seed of parameters and data order (1)")
    demo.add_argument(
        "--keep",
        dest="data_dir",
        metavar="DIR",
        help="keep the nodes' data dirs in DIR (else deleted at its end)",
    )
    demo.add_argument("--no-browser", action="store_true", help="end after the last round; open no page")
    demo.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    run = _command(commands, "run", "running:run", "run the node in the data dir")
    join = _command(commands, "join", "running:join", "take part in a swarm")
    join.add_argument("ticket", nargs="?", help="atoll1… (or ATOLL_TICKET, or ATOLL_TICKET_FILE)")
    join.add_argument("--yes", action="store_true", help="accept what the swarm asks of this machine")
    join.add_argument("--dry-run", action="store_true", help="show what would be accepted, and end")
    for parser in (run, join):
        parser.add_argument("--data", metavar="PATH", help="the swarm's text or its shards, on this machine")
        parser.add_argument("--data-cap", type=int, metavar="BYTES", help="disk for shards of the text")
        parser.add_argument("--trainer-fd", type=int, help=argparse.SUPPRESS)
    bootstrap = _command(
        commands, "bootstrap", "running:bootstrap", "help others to find each other; train nothing"
    )
    for parser in (run, join, bootstrap):
        _add_settings(parser)


def _add_organising(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    init = _command(commands, "init", "organise:init", "make a new swarm")
    init.add_argument("name", metavar="NAME", help="what people call it")
    init.add_argument("--model", default="0.8m", help="built-in size: 0.8m, 4m, 11m, 30m or 124m (0.8m)")
    init.add_argument("--data", metavar="PATH", help="a text file or a folder of them (built-in Shakespeare)")
    init.add_argument(
        "--data-url", action="append", default=[], metavar="URL", help="https folder with the shards"
    )
    init.add_argument("--shard-mib", type=float, default=64.0, metavar="N", help="largest shard in MiB (64)")
    init.add_argument("--bootstrap", action="append", default=[], metavar="MULTIADDR", help="in the manifest")
    init.add_argument("--inner-steps", type=int, metavar="H", help="inner steps of one round")
    init.add_argument("--batch", type=int, help="sequences per inner step")
    init.add_argument("--lr", type=float, help="inner learning rate")
    init.add_argument(
        "--uplink", metavar="MBIT", help="choose the inner steps for lines of 20, or of 10..200, Mbit/s"
    )
    init.add_argument("--peers", type=int, metavar="N", help="with --uplink: nodes to expect (8)")
    init.add_argument(
        "--step-s", type=float, metavar="S", help="with --uplink: seconds of an inner step (measured here)"
    )
    init.add_argument("--private", action="store_true", help="only whom a ticket admits may take part")
    init.add_argument(
        "--admission",
        choices=("open", "ticket", "approve"),
        help="who may take part (open; --private: ticket)",
    )
    init.add_argument("--total-steps", type=int, help="inner steps of the whole schedule")
    init.add_argument(
        "--mode",
        default="diloco",
        help="diloco, streaming, eager, delayed, async, fedavg, photon, sparseloco, muloco: docs/modes.md",
    )
    init.add_argument("--outer-lr", type=float, metavar="LR", help="rate of the outer step (by mode)")
    init.add_argument("--outer-momentum", type=float, metavar="M", help="its Nesterov momentum (by mode)")
    init.add_argument("--braking", type=float, default=0.0, metavar="RHO", help="of stale work; async (0)")
    init.add_argument("--optimizer", metavar="NAME", help="inner one: adamw or muon (by mode)")
    init.add_argument("--fragments", type=int, metavar="P", help="parts that take turns (streaming: 3)")
    init.add_argument(
        "--pattern",
        choices=("strided", "balanced"),
        default="strided",
        help="of fragments: by layers, or of one size (strided)",
    )
    init.add_argument("--overlap", type=int, metavar="STEPS", help="that go on during an exchange (by mode)")
    init.add_argument("--delay", type=int, choices=(1, 2), help="outer steps of it; eager and delayed (1)")
    init.add_argument(
        "--mix", type=float, metavar="ALPHA", help="of local parameters that stays (streaming: 0.5)"
    )
    init.add_argument("--codec", help="how contributions are encoded, or auto (int8; streaming: e3m0)")
    init.add_argument("--result-codec", default="int8", help="how their mean is encoded (int8)")
    init.add_argument("--random-rounding", action="store_true", help="of contributions; int8 and int4 only")
    init.add_argument(
        "--two-level-above", type=int, default=0, metavar="N", help="contributors that average in groups (32)"
    )
    init.add_argument(
        "--door", help="when a round begins: all, dbw or period; async: window (docs/modes.md; all)"
    )
    init.add_argument("--door-seconds", type=float, metavar="S", help="of a period, or of a window (2)")
    init.add_argument(
        "--by-attendance", action="store_true", help="with --door period: who comes seldom weighs more"
    )
    init.add_argument(
        "--by-speed",
        action=argparse.BooleanOptionalAction,
        help="slower nodes take fewer inner steps, so that all arrive together (async: yes)",
    )
    init.add_argument(
        "--by-roughness", action="store_true", help="with --codec auto: more bits for nodes with a rough loss"
    )
    init.add_argument(
        "--merge",
        help="of contributions: mean, rda, trimmed, median, clip or filter (mean; untrusted: filter)",
    )
    init.add_argument(
        "--bucket",
        type=int,
        default=0,
        metavar="N",
        help="with trimmed to filter: so many are averaged before",
    )
    init.add_argument(
        "--audit",
        action=argparse.BooleanOptionalAction,
        help="pledges before contributions, audits of results (untrusted: yes)",
    )
    init.add_argument(
        "--untrusted",
        action="store_true",
        help="some members may lie: --merge filter --audit (docs/trust.md)",
    )
    init.add_argument("--feedback", type=float, metavar="DECAY", help="of error feedback; 0: none (by codec)")
    init.add_argument(
        "--missed",
        choices=("keep", "rebase", "reset"),
        help="what becomes of work that missed a round (reset; eager, delayed, async: keep)",
    )
    init.add_argument("--min-peers", type=int, default=1, help="training nodes needed before round 1 (1)")
    init.add_argument("--seed", type=int, default=1, help="seed of parameters and data order (1)")
    init.add_argument("--genesis", metavar="FILE", help="version 0 of a model of your own (safetensors)")
    ticket = _command(commands, "ticket", "organise:ticket", "make a ticket; `ticket show T` explains one")
    ticket.add_argument("show", nargs="*", metavar="show TICKET", help="explain this ticket instead")
    ticket.add_argument("--uses", type=int, help="how often it may be used; 0: any number (private swarm: 1)")
    ticket.add_argument("--expires", metavar="TIME", help="such as 1h or 7d (never)")
    ticket.add_argument("--label", default="", help="for whom it is")
    ticket.add_argument(
        "--role", choices=("member", "observer"), default="member", help="in a private swarm (member)"
    )
    ticket.add_argument(
        "--lan", action="store_true", help="without addresses: `join --mdns` finds the swarm in its network"
    )
    ticket.add_argument("--qr", action="store_true", help="show it as a QR code, too")
    members = _command(commands, "members", "members:members", "who may take part in a private swarm")
    members.add_argument(
        "action", nargs="?", choices=["list", "revoke", "ban", "appoint"], default="list", help="(list)"
    )
    members.add_argument(
        "node", nargs="?", help="peer id, or the two words of its name; to revoke: or a ticket"
    )
    members.add_argument("--reason", help="told to the node and to all members; with appoint: its label")
    pending = _command(
        commands, "pending", "members:pending", "who asks to be approved, where the organiser approves"
    )
    approve = _command(commands, "approve", "members:approve", "let in a node that asks")
    approve.add_argument("node", help="peer id, or the two words of its name")
    approve.add_argument("--label", help="for whom it is")
    approve.add_argument("--role", choices=("member", "observer"), help="(as its ticket says)")
    shards = _command(commands, "shards", "organise:shards", "list the shards of the text, or copy them")
    shards.add_argument("--out", metavar="FOLDER", help="copy them here, for a web server or another machine")
    manifest = _command(
        commands, "manifest", "manifest:manifest", "show the swarm's signed description, or amend it"
    )
    manifest.add_argument("action", nargs="?", choices=["show", "update"], default="show", help="(show)")
    manifest.add_argument(
        "pairs",
        nargs="*",
        metavar="NAME=VALUE",
        help="with update, such as inner.lr=0.001; signed as a new version",
    )
    manifest.add_argument(
        "--from-round", type=int, metavar="N", help="the first round that goes by it (ten from now)"
    )
    manifest.add_argument("--note", default="", help="why, for everybody to read")
    manifest.add_argument("--yes", action="store_true", help="sign without asking")
    config = _command(commands, "config", "observe:config", "show the settings, or change some")
    config.add_argument("action", nargs="?", choices=["show", "set"], default="show", help="(show)")
    config.add_argument(
        "pairs",
        nargs="*",
        metavar="NAME[=VALUE]",
        help="with set, such as up=20Mbit; at once, and lastingly. With show: only these settings",
    )
    config.add_argument("--origin", action="store_true", help="say where each value comes from")
    for parser in (ticket, shards, manifest, config, members, pending):
        parser.add_argument("--json", action="store_true")


def _add_observing(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _command(commands, "status", "observe:status", "what the node does, why, and what is next")
    _command(commands, "peers", "observe:peers", "who is in the swarm")
    rounds = _command(commands, "rounds", "observe:rounds", "how the last rounds went")
    rounds.epilog = (
        "TOKENS: trained since the last commit of what is averaged, by its part of the model. In "
        "streaming that is one fragment, so a commit counts more or less than a phase; over a turn it is all."
    )
    rounds.add_argument("-n", type=int, default=20, help="how many (20)")
    receipts = _command(commands, "receipts", "receipts:receipts", "what was accepted of this node, signed")
    receipts.add_argument("files", nargs="*", metavar="FILE", help="check these instead")
    receipts.add_argument("--node", metavar="ID", help="whose they are, where files are named")
    events = _command(commands, "events", "observe:events", "what happened")
    events.add_argument("--follow", action="store_true", help="go on as it happens")
    events.add_argument("-n", type=int, default=20, help="how many (20)")
    top = _command(commands, "top", "top:top", "the same as the page, live in this terminal")
    top.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between looks (1)")
    top.add_argument("--once", action="store_true", help="print it once")
    replay = _command(commands, "replay", "replay:replay", "drive the page from a recorded log of events")
    replay.add_argument("file", nargs="?", metavar="FILE", help="events.jsonl (that of the data dir)")
    replay.add_argument("--speed", type=float, default=10.0, metavar="N", help="times as fast (10)")
    replay.add_argument("--port", type=int, default=0, help="of the page (any free one)")
    replay.add_argument("--no-browser", action="store_true", help="open no page")
    plot = _command(commands, "plot", "plots:plot", "one figure over time; without NAME which there are")
    plot.add_argument("name", nargs="?", metavar="NAME", help="such as loss, tokens_per_s or peers")
    plot.add_argument("--for", dest="for_time", default="24h", metavar="TIME", help="such as 2h or 30d (24h)")
    plot.add_argument("--points", type=int, default=300, metavar="N", help="stretches at the most (300)")
    plot.add_argument("--out", metavar="FILE", help="write a picture (SVG)")
    doctor = _command(
        commands, "doctor", "doctor:doctor", "is this machine, and its way to others, fit for a swarm?"
    )
    doctor.epilog = "Verdicts: ok, degraded, blocked (exit status 12), unknown; each with what to do."
    bundle = _command(
        commands, "support-bundle", "bundle:support_bundle", "what to attach to a bug report, without secrets"
    )
    bundle.add_argument("--out", metavar="FILE", help="a zip file (atoll-support-TIME.zip)")
    for name in (
        "status",
        "peers",
        "rounds",
        "receipts",
        "events",
        "top",
        "replay",
        "plot",
        "doctor",
        "support-bundle",
    ):
        commands.choices[name].add_argument("--json", action="store_true")


def _add_controls(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pause = _command(commands, "pause", "control:pause", "stop training; stay in the swarm")
    pause.add_argument("--for", dest="for_time", metavar="TIME", help="such as 30m or 2h")
    _command(commands, "resume", "control:resume", "go on training")
    _command(commands, "finish", "control:finish", "contribute this round, then pause")
    _command(commands, "leave", "control:leave", "end the daemon in order")


def _add_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = _command(commands, "export", "model:export", "write the outer parameters of the last version")
    export.add_argument("--out", required=True, metavar="FILE.safetensors", help="where to")
    generate = _command(commands, "generate", "model:generate", "let the outer parameters write")
    generate.add_argument("--prompt", default="ROMEO:\n", help="how the text begins (-: from stdin)")
    generate.add_argument("--bytes", type=int, default=400, help="how much to write (400)")
    generate.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest (0.8)")
    generate.add_argument("--seed", type=int, default=1, help="the same seed writes the same text (1)")
    generate.add_argument(
        "--json", action="store_true", help="a JSON object a line: the version, then each byte as hex"
    )


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    audit = commands.add_parser("audit", help="what this node gives away")
    kinds = audit.add_subparsers(title="what to look at", metavar="WHAT", required=True)
    leak = _command(kinds, "leak", "leak:audit", "what its updates tell of its text")
    leak.add_argument("--text", metavar="FILE", help="to look for (a text on which this node trains)")
    leak.add_argument("--inner-steps", type=int, metavar="H", help="of a round (as the swarm has it)")
    leak.add_argument("--bytes", type=int, default=16, help="length of the example (16)")
    leak.add_argument("--effort", type=int, default=100, metavar="N", help="tries to find it (100)")
    leak.add_argument("--seed", type=int, default=1, help="of examples and guesses (1)")
    leak.add_argument("--json", action="store_true")


def _add_simulation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    simulate = commands.add_parser(
        "simulate", help="test the protocol, and plan a swarm: whole swarms in virtual time"
    )
    kinds = simulate.add_subparsers(title="what to simulate", metavar="WHAT", required=True)
    chaos = _command(kinds, "chaos", "simulate:chaos", "everything that can befall a few nodes")
    chaos.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    chaos.add_argument("--seeds", type=int, default=1, help="how many (1)")
    chaos.add_argument("--jobs", type=int, default=0, help="processes (one per core)")
    chaos.add_argument("--trace", action="store_true", help="print what happens, event by event")
    chaos.add_argument("--resume", metavar="FILE", help="go on where this file says")
    big = _command(kinds, "big", "simulate:big", "rounds of many nodes")
    big.add_argument("--seed", type=int, default=0, help="of times and losses (0)")
    big.add_argument("--nodes", type=int, default=1024, help="how many (1024)")
    big.add_argument("--rounds", type=int, default=2, help="how many (2)")
    big.add_argument("--losses", type=int, default=0, help="nodes that die in each later round (0)")
    utilisation = _command(
        kinds, "utilisation", "utilisation:utilisation", "what bandwidth papers need, beside our closed form"
    )
    utilisation.add_argument("--json", action="store_true")
    _add_planning(kinds)


def _add_planning(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    swarm = _command(kinds, "swarm", "swarm:swarm", "what a swarm would reach, before machines are bought")
    swarm.add_argument("--peers", type=int, default=64, help="how many (64)")
    swarm.add_argument(
        "--uplink", default="10..200", metavar="MBIT", help="range of their upload in Mbit/s (10..200)"
    )
    swarm.add_argument("--downlink", metavar="MBIT", help="of their download (each as its upload)")
    swarm.add_argument("--latency-ms", type=float, default=50.0, metavar="MS", help="one way (50)")
    swarm.add_argument("--churn", default="0", metavar="PART", help="lost and replaced, as 5%%/h (0)")
    swarm.add_argument("--params", type=float, default=1e9, metavar="N", help="of the model (1e9)")
    swarm.add_argument("--codec", default="int4", help="of contributions (int4)")
    swarm.add_argument("--result-codec", default="int8", help="of their mean (int8)")
    swarm.add_argument("--mode", choices=["diloco", "streaming", "eager"], default="diloco", help="(diloco)")
    swarm.add_argument("--step-s", type=float, default=1.0, metavar="S", help="seconds of an inner step (1)")
    swarm.add_argument("--inner-steps", type=int, metavar="H", help="of a round (chosen, and said why)")
    swarm.add_argument("--fragments", type=int, metavar="P", help="that take turns (streaming: 3)")
    swarm.add_argument(
        "--overlap", type=int, metavar="STEPS", help="that go on during an exchange (streaming: 1)"
    )
    swarm.add_argument(
        "--tokens-per-step", type=int, default=32768, metavar="N", help="of one node in an inner step (32768)"
    )
    swarm.add_argument("--hours", type=float, help="virtual, simulated at most (as a few rounds take)")
    swarm.add_argument("--seed", type=int, default=0, help="of lines and losses (0)")
    swarm.add_argument("--plot", metavar="FILE", help="write the utilisations as SVG")
    swarm.add_argument("--json", action="store_true")
