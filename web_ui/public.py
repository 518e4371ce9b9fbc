"""What anybody may know of a node: its snapshot and events, reduced to what is named here.

An allow-list, twice over: only the fields in the tables below are taken over, and each only if it looks like
what it should be. A readable name is two words, a digest is hexadecimal, an outcome one word, so no address,
path or sentence can pass in their place, whoever put it there. All else is there and empty, so that the
result has the form of a `State` and one page draws both. Sentences are not passed on but made anew from
figures.

Peer ids and names are on signed records of the swarm and thus public; labels, addresses, round trips and how
a peer is reached are not. Pure functions; nothing here can fail, whatever the node says.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from atoll.web_ui import round_types, state_types
from atoll.web_ui.shapes import empty, finite

MAX_ITEMS = 1024
"""Of any list: more peers than a swarm has, more rounds than a node remembers."""
Keep = Callable[[Any], Any]
"""Returns the value as it may be known, or None where it may not."""


def _matches(pattern: str) -> Keep:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: value if isinstance(value, str) and compiled.fullmatch(value) else None


_name = _matches(r"[a-z]{1,20}-[a-z]{1,20}")
_id = _matches(r"[A-Za-z0-9]{20,80}")
_hex = _matches(r"[0-9a-f]{0,128}")
_word = _matches(r"[a-z]{1,20}")
_codec = _matches(r"[a-z]{1,10}[0-9]{0,2}(m[0-9])?")
_title = _matches(r"[A-Za-z0-9 _-]{1,64}")
_field = _matches(r"(inner|outer|rounds|data)\.[a-z_]{1,24}|bootstrap")
_FIGURE = r"[0-9]{1,15}(\.[0-9]{1,9})?(e[+-][0-9]{1,3})?"
_figures = _matches(rf"{_FIGURE}(,{_FIGURE}){{0,63}}")
_fingerprint = _matches(r"[0-9a-f]{4}(-[0-9a-f]{4}){3}")
_ROUND = re.compile(r"Round ([0-9]{1,12}) ended (certified|provisional|aborted|missed)\b", re.ASCII)


def _number(value: Any) -> Any:
    number = finite(value)
    return value if number is not None and abs(number) < 1e18 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _list(keep: Keep) -> Keep:
    def each(value: Any) -> list[Any]:
        items = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()
        # The newest are last, and what is too much is cut off before.
        return [kept for item in items[-MAX_ITEMS:] if (kept := keep(item)) is not None]

    return each


def _record(shape: Any, fields: Mapping[str, Keep]) -> Keep:
    """Of a TypedDict: these fields where they may be known, and the others empty."""

    def pick(value: Any) -> dict[str, Any]:
        result: dict[str, Any] = empty(shape)
        for name, keep in fields.items():
            kept = keep(value.get(name)) if isinstance(value, Mapping) else None
            if kept is not None:
                result[name] = kept
        return result

    return pick


_peer = _record(
    state_types.Peer,
    {
        "id": _id,
        "name": _name,
        "state": _word,
        "version": _number,
        "digest": _hex,
        "tokens_per_s": _number,
        "accepted_tokens": _number,
        "last_seen": _number,
        "self": _flag,
    },
)
_phases = _record(
    round_types.RoundPhases,
    {"scatter_s": _number, "reduce_s": _number, "commit_s": _number, "apply_s": _number},
)
_round = _record(
    round_types.Round,
    {
        "revision": _number,
        "version": _number,
        "view": _number,
        "time": _number,
        "outcome": _word,
        "leader": _name,
        "planned": _list(_number),
        "contributed": _list(_number),
        "received": _list(_number),
        "late": _list(_number),
        "rejected": _list(_record(round_types.Rejection, {"peer": _number})),
        "missing": _list(_number),
        "tokens": _number,
        "bytes_sent": _number,
        "bytes_received": _number,
        "duration_s": _number,
        "phases": _phases,
        "loss": _number,
        "loss_min": _number,
        "loss_max": _number,
        "val_loss": _number,
        "cosine": _number,
        "digest": _hex,
        "outer_lr": _number,
        "codec": _codec,
        "groups": _number,
    },
)
_swarm = _record(
    state_types.Swarm,
    {
        "mode": _word,
        "model": _matches(r"[a-z0-9 ,]{1,64}"),
        "data": _matches(r"(builtin:)?[A-Za-z0-9 _-]{1,64}"),
        "data_bytes": _number,
        "inner_steps": _number,
        "batch": _number,
        "fragments": _number,
        "optimizer": _word,
        "inner_lr": _number,
        "outer_lr": _number,
        "outer_momentum": _number,
        "codec": _codec,
        "result_codec": _codec,
        "min_peers": _number,
        "manifest_version": _number,
        "amendments": _list(
            _record(
                state_types.Amendment,
                {
                    "version": _number,
                    "from_round": _number,
                    "in_force": _flag,
                    "signed_unix_s": _number,
                    "changes": _list(
                        _record(
                            state_types.AmendedValue,
                            {"field": _field, "before": _figures, "after": _figures},
                        )
                    ),
                },
            )
        ),
    },
)
_STATE: Mapping[str, Keep] = {
    "sequence": _number,
    "time": _number,
    "started": _number,
    "state": _word,
    "since": _number,
    "node_id": _id,
    "name": _name,
    "swarm_id": _hex,
    "swarm_name": _title,
    "swarm": lambda value: None if value is None else _swarm(value),
    "organiser": _fingerprint,
    "version": _number,
    "digest": _hex,
    "certified": _flag,
    "chain": _list(
        _record(state_types.Link, {"version": _number, "digest": _hex, "certified": _flag}),
    ),
    "loss": _number,
    "val_loss": _number,
    "val_loss_version": _number,
    "val_loss_before": _number,
    "tokens_per_s": _number,
    "swarm_tokens_per_s": _number,
    "codec": _codec,
    "accepted_tokens": _number,
    "swarm_accepted_tokens": _number,
    "parameters": _number,
    "peers": _list(_peer),
    "rounds_revision": _number,
}
_state = _record(state_types.State, _STATE)
_rounds = _record(
    round_types.Rounds,
    {
        "run": _number,
        "revision": _number,
        # Reports name peers by their places in this list: one that may not be known leaves its place empty.
        "peers": _list(lambda value: _id(value) or ""),
        "rounds": _list(_round),
    },
)


def public_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The snapshot for everybody: a `State` with `public` set, and nothing in it but what may be known."""
    known: dict[str, Any] = _state(state)
    members, word = len(known["peers"]), known["state"].capitalize() or "Unknown"
    nodes = f"{members} node{'' if members == 1 else 's'}"
    known["sentence"] = f"{word}: {nodes} in the swarm at version {known['version']:,}."
    known["public"] = True
    return known


def public_rounds(rounds: Mapping[str, Any]) -> dict[str, Any]:
    """Reports for everybody: `Rounds`."""
    known: dict[str, Any] = _rounds(rounds)
    return known


def public_event(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """The event for everybody; None where it is not for them. Only ends of rounds are."""
    said = event.get("text") if event.get("kind") == "round" else None
    found = _ROUND.match(said) if isinstance(said, str) else None
    if found is None:
        return None
    return {
        "sequence": int(event["sequence"]),
        "time": _number(event.get("time")) or 0.0,
        "kind": "round",
        "text": f"Round {found[1]} ended {found[2]}.",
    }
