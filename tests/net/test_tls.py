"""TLS lets in who is meant, and says of everybody else who it is."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from mirrorha.errors import (
    InvariantViolation,
    LocalUsageError,
    PeerError,
    PeerLostError,
    PeerProtocolError,
    PeerRefusedError,
)
from mirrorha.net.certificates import WITNESS, node_dns_name
from mirrorha.net.keys import create_keys, load_keys
from mirrorha.net.tls import (
    PeerTls,
    calling_node,
    check_peer_certificate,
    client_context,
    peer_error_from,
    server_context,
    witness_client_context,
    witness_server_context,
)
from mirrorha.net.tls_stream import TlsStream
from tests.net.session_support import keys_of

if TYPE_CHECKING:
    from pathlib import Path

DAY_S: Final = 86_400


async def outcomes(
    caller: ssl.SSLContext, called: ssl.SSLContext, *, name: str = "lyon.orders.mirrorha"
) -> tuple[PeerError | None, PeerError | None, TlsStream, TlsStream]:
    """Shake hands and exchange a byte; return what each side makes of it, and the streams."""
    one, other = trio.testing.memory_stream_pair()
    client = TlsStream(one, caller, server_hostname=name)
    server = TlsStream(other, called, server_side=True)
    found: dict[TlsStream, PeerError] = {}

    async def talk(stream: TlsStream) -> None:
        try:
            await stream.do_handshake()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        except trio.BrokenResourceError as error:
            found[stream] = peer_error_from(error, whom="the other")
            await trio.aclose_forcefully(stream.transport)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk, client)
        nursery.start_soon(talk, server)
    return found.get(client), found.get(server), client, server


async def test_nodes_of_a_cluster_connect() -> None:
    paris, lyon = keys_of("paris"), keys_of("lyon")
    *errors, client, server = await outcomes(client_context(paris), server_context(lyon))
    assert errors == [None, None]
    assert client.ssl_object.version() == "TLSv1.3"
    check_peer_certificate(client.ssl_object, paris, "lyon")
    check_peer_certificate(server.ssl_object, lyon, "paris")


async def test_no_session_can_be_resumed() -> None:
    """A resumed one would rest on a check made at another time."""
    *_, client, _ = await outcomes(
        client_context(keys_of("paris")), server_context(keys_of("lyon"))
    )
    assert client.ssl_object.session is None or not client.ssl_object.session.has_ticket


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("lyon", "both sides show the certificate of 'lyon'.*lead back"),
        (WITNESS, "the witness's certificate, not that of 'paris'"),
        ("nice", r"certificate for 'nice\.orders\.mirrorha', not for 'paris'"),
    ],
)
async def test_a_caller_that_is_not_the_peer(shown: str, words: str) -> None:
    """TLS lets every node of the cluster in: who it is must be checked."""
    lyon = keys_of("lyon")
    *errors, _, server = await outcomes(client_context(keys_of(shown)), server_context(lyon))
    assert errors == [None, None]
    with pytest.raises(PeerRefusedError, match=words):
        check_peer_certificate(server.ssl_object, lyon, "paris")


@pytest.mark.parametrize("shown", ["paris", WITNESS, "nice"])
async def test_whoever_answers_must_be_the_peer(shown: str) -> None:
    """The caller knows whom it calls: the handshake itself fails."""
    error, *_ = await outcomes(client_context(keys_of("paris")), server_context(keys_of(shown)))
    assert isinstance(error, PeerRefusedError)
    assert "lyon.orders.mirrorha" in str(error)


async def test_without_the_name_check_the_caller_still_checks_for_itself() -> None:
    paris = keys_of("paris")
    *_, client, _ = await outcomes(
        client_context(paris), server_context(keys_of("nice")), name="nice.orders.mirrorha"
    )
    with pytest.raises(PeerRefusedError, match="nice"):
        check_peer_certificate(client.ssl_object, paris, "lyon")


async def test_nobody_shown_is_nobody() -> None:
    """The check does not rest on the context having demanded a certificate."""
    lax = server_context(keys_of("lyon"))
    lax.verify_mode = ssl.CERT_OPTIONAL
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(cadata=keys_of("paris").authority_pem)
    *errors, _, server = await outcomes(anonymous, lax)
    assert errors == [None, None]
    with pytest.raises(PeerRefusedError, match="for nobody, not for 'paris'"):
        check_peer_certificate(server.ssl_object, keys_of("lyon"), "paris")


async def test_a_certificate_of_another_authority() -> None:
    """The same names, made by a `keys init` of its own."""
    caller, *_ = await outcomes(
        client_context(keys_of("paris", authority="two")), server_context(keys_of("lyon"))
    )
    assert isinstance(caller, PeerRefusedError)
    assert "mirrorha keys init" in str(caller)


async def test_a_caller_of_another_authority_that_does_not_check() -> None:
    context = client_context(keys_of("paris", authority="two"))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    caller, called, *_ = await outcomes(context, server_context(keys_of("lyon")))
    assert isinstance(called, PeerRefusedError)
    assert "is refused" in str(called)
    assert isinstance(caller, PeerRefusedError)
    assert "refuses the connection" in str(caller)


async def test_a_caller_without_a_certificate() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=keys_of("paris").authority_pem)
    caller, called, *_ = await outcomes(context, server_context(keys_of("lyon")))
    assert isinstance(caller, PeerRefusedError)
    assert "demands a certificate" in str(caller)
    assert isinstance(called, PeerProtocolError)


async def test_a_server_that_wants_no_certificate_is_not_the_peer() -> None:
    """Nor does a caller send anything to somebody with a certificate of the system's store."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys_of("lyon", authority="two").path)
    caller, *_ = await outcomes(client_context(keys_of("paris")), context)
    assert isinstance(caller, PeerRefusedError)


@pytest.mark.parametrize("we_call", [True, False])
async def test_older_tls_is_refused(we_call: bool) -> None:
    caller, called = client_context(keys_of("paris")), server_context(keys_of("lyon"))
    old = called if we_call else caller
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    errors = await outcomes(caller, called)
    assert isinstance(errors[0], PeerError)
    assert isinstance(errors[1], PeerError)


async def test_a_certificate_that_expires_while_the_node_runs(tmp_path: Path) -> None:
    """The check at the start is not enough: TLS looks at the clock each time."""
    long_ago_s = 1_000_000_000.0
    create_keys(
        tmp_path, cluster="orders", nodes=["paris", "lyon"], days=10, clock=lambda: long_ago_s
    )
    paris, lyon = (
        load_keys(tmp_path, node=node, clock=lambda: long_ago_s) for node in ("paris", "lyon")
    )
    caller, *_ = await outcomes(client_context(paris), server_context(lyon))
    assert isinstance(caller, PeerRefusedError)
    assert "expired" in str(caller)


async def test_certificates_last_beyond_2050(tmp_path: Path) -> None:
    """From then on dates are written in another form."""
    create_keys(tmp_path, cluster="orders", nodes=["paris", "lyon"], days=36_500)
    paris, lyon = (load_keys(tmp_path, node=node) for node in ("paris", "lyon"))
    *errors, _, _ = await outcomes(client_context(paris), server_context(lyon))
    assert errors == [None, None]


async def test_the_witness_knows_who_calls() -> None:
    witness = keys_of(WITNESS)
    *errors, client, server = await outcomes(
        witness_client_context(keys_of("paris")),
        witness_server_context(witness),
        name=node_dns_name(cluster="orders", node=WITNESS),
    )
    assert errors == [None, None]
    assert calling_node(server.ssl_object, witness) == "paris"
    with pytest.raises(PeerRefusedError, match="no node"):
        calling_node(client.ssl_object, keys_of("paris"))


async def test_a_node_is_not_taken_for_the_witness() -> None:
    error, *_ = await outcomes(
        witness_client_context(keys_of("paris")), server_context(keys_of("lyon")), name="orders"
    )
    assert isinstance(error, PeerRefusedError)


def test_keys_are_used_by_whom_they_are_for() -> None:
    for wrong in (
        lambda: witness_server_context(keys_of("paris")),
        lambda: witness_client_context(keys_of(WITNESS)),
        lambda: PeerTls(keys_of("paris"), peer="paris"),
        lambda: PeerTls(keys_of("paris"), peer=WITNESS),
    ):
        with pytest.raises(InvariantViolation):
            wrong()


def test_keys_that_vanish_after_they_were_checked(tmp_path: Path) -> None:
    create_keys(tmp_path, cluster="orders", nodes=["paris", "lyon"])
    keys = load_keys(tmp_path, node="paris")
    keys.path.write_text("")
    with pytest.raises(LocalUsageError, match="a moment ago"):
        server_context(keys)
    keys.path.unlink()
    with pytest.raises(LocalUsageError, match="a moment ago"):
        client_context(keys)


def test_other_failures_say_nothing_of_the_peer() -> None:
    for cause in (ConnectionResetError(104, "reset"), None):
        error = trio.BrokenResourceError("gone")
        error.__cause__ = cause
        assert isinstance(peer_error_from(error, whom="lyon"), PeerLostError)
