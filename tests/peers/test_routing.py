"""Frames through a third node: who forwards, and that a forwarder can only delay or lose them."""

from __future__ import annotations

import pytest

from atoll.daemon.simulate.keyring import FakeKeyring
from atoll.peers.routing import MAX_INDIRECT, PATIENCE_S, REPLAY_WINDOW, Router, RoutingError
from atoll.protocol import messages_pb2 as pb

KEYS = {name: FakeKeyring(name) for name in ("a", "b", "f", "x")}
A, B, F, X = (KEYS[name].peer_id for name in ("a", "b", "f", "x"))
BEAT = pb.Frame(heartbeat=pb.Heartbeat(nonce=7))


@pytest.fixture
def a() -> Router:
    """A, linked to F, which is linked to B."""
    return linked(Router(KEYS["a"], 100), B)


@pytest.fixture
def b() -> Router:
    return linked(Router(KEYS["b"], 100), A)


def linked(router: Router, other: bytes) -> Router:
    router.heard(F, [A, B, other, b"too short"])
    assert router.indirect([F], 0.0) == []
    assert router.indirect([F], PATIENCE_S) == [other]
    return router


def test_a_peer_is_reached_through_others_when_it_has_had_no_link_for_a_while(a: Router):
    assert a.via(B) == F and a.via(X) is None
    assert a.indirect([F, B], PATIENCE_S) == [], "there is a link now"
    assert a.indirect([F], 2 * PATIENCE_S) == [], "patience begins anew"
    a.lost(F)
    assert a.via(B) is None and a.indirect([], 3 * PATIENCE_S) == []


def test_there_is_a_bound_to_peers_that_are_reached_through_others(a: Router):
    for k in range(3):
        a.heard(b"%038d" % k, [b"%019d" % k + b"%019d" % n for n in range(200)])
    a.indirect([F], 0.0)
    assert len(a.indirect([F], 2 * PATIENCE_S)) == MAX_INDIRECT


def test_an_envelope_reaches_its_target_through_a_forwarder(a: Router, b: Router):
    contribution = pb.Frame(contribution=pb.Contribution(chunk=3))
    for frame, payload in ((BEAT, b""), (contribution, b"payload")):
        message = a.wrap(B, frame, payload).forward
        assert Router(KEYS["f"], 0).pass_on(A, message, [A, B]) == B
        origin, inner = b.unwrap(message, payload)
        assert origin == A and inner.WhichOneof("message") == frame.WhichOneof("message")


def test_envelopes_take_one_hop_and_only_to_linked_peers(a: Router):
    message, forwarder = a.wrap(B, BEAT).forward, Router(KEYS["f"], 0)
    with pytest.raises(RoutingError, match="forwarded before"):
        forwarder.pass_on(X, message, [A, B])
    with pytest.raises(RoutingError, match="without a link"):
        forwarder.pass_on(A, message, [A])


def test_a_forwarder_can_change_nothing(a: Router, b: Router):
    message = a.wrap(B, pb.Frame(result=pb.Signed()), b"payload").forward

    def changed(**fields: object) -> pb.Forward:
        other = pb.Forward()
        other.CopyFrom(message)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    for bad, payload, reason in (
        (changed(origin=X), b"payload", "not signed"),
        (changed(target=F), b"payload", "another peer"),
        (message, b"Payload", "another payload"),
        (message, b"payload and more", "another payload"),
    ):
        with pytest.raises(RoutingError, match=reason):
            b.unwrap(bad, payload)
    forged = changed()
    forged.envelope.body += b"\0"
    with pytest.raises(RoutingError, match="not signed"):
        b.unwrap(forged, b"payload")
    b.unwrap(message, b"payload")
    with pytest.raises(RoutingError, match="came before"):
        b.unwrap(message, b"payload")


def envelope(body: bytes) -> pb.Forward:
    return pb.Forward(origin=A, target=B, envelope=KEYS["a"].sign("forward", body))


def test_what_is_inside_is_a_frame_of_the_rounds(b: Router):
    with pytest.raises(RoutingError, match="not readable"):
        b.unwrap(envelope(b"\xff"), b"")
    empty = pb.Forwarded(target=B, frame=b"", sequence=1)
    with pytest.raises(RoutingError, match="not readable"):
        b.unwrap(envelope(empty.SerializeToString()), b"")
    goodbye = pb.Frame(goodbye=pb.Goodbye(reason="leave"))
    body = pb.Forwarded(target=B, frame=goodbye.SerializeToString(), sequence=1)
    with pytest.raises(RoutingError, match="not forwarded"):
        b.unwrap(envelope(body.SerializeToString()), b"")


def test_a_stranger_is_not_believed(a: Router):
    stranger = Router(KEYS["x"], 0)
    with pytest.raises(RoutingError, match="nobody is linked to"):
        a.unwrap(stranger.wrap(A, BEAT).forward, b"")


def test_frames_may_overtake_each_other_within_a_window(a: Router, b: Router):
    messages = [a.wrap(B, BEAT).forward for _ in range(REPLAY_WINDOW + 2)]
    b.unwrap(messages[1], b"")
    b.unwrap(messages[0], b"")
    for message in messages[2:]:
        b.unwrap(message, b"")
    for old in (messages[0], messages[1], messages[-1]):
        with pytest.raises(RoutingError, match="came before"):
            b.unwrap(old, b"")
