"""Clusters with keys of their own, and a witness on loopback, for the tests of the witness."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trustme

from mirrorha.arbiters import WitnessArbiter
from mirrorha.arbiters.witness_server import Witness, serve_witness
from mirrorha.arbiters.witness_wire import VERSION_MAX, VERSION_MIN, Channel, Hello

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

HELLO = Hello("mirrorha-witness", VERSION_MIN, VERSION_MAX)


@attrs.frozen
class Keys:
    """The keys of one cluster, and of the witness as far as it serves that cluster."""

    cluster: str
    authority: trustme.CA = attrs.Factory(trustme.CA)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        self.authority.configure_trust(context)
        self.authority.issue_cert(self.cluster).configure_cert(context)
        return context

    def client(self, node: str = "paris", *, issuer: trustme.CA | None = None) -> ssl.SSLContext:
        """The context of a node; its certificate is by another issuer if one is given."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # as the nodes' own, see net/tls.py
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.authority.configure_trust(context)
        (issuer or self.authority).issue_cert(node).configure_cert(context)
        return context


@attrs.define
class Running:
    """A witness that serves, and what is needed to talk to it. Closes all that it has opened."""

    witness: Witness
    keys: dict[str, Keys]
    _opened: list[trio.abc.AsyncResource | WitnessArbiter] = attrs.field(factory=list, init=False)

    def arbiter(self, cluster: str = "orders", **options: Any) -> WitnessArbiter:
        # A loaded machine is no reason to fail: the tests of the deadline set their own.
        options.setdefault("deadline_s", 30.0)
        context = options.pop("context", None) or self.keys[cluster].client()
        address = f"127.0.0.1:{self.witness.port}"
        self._opened.append(arbiter := WitnessArbiter(address, cluster, context, **options))
        return arbiter

    async def tcp(self) -> trio.SocketStream:
        self._opened.append(stream := await trio.open_tcp_stream("127.0.0.1", self.witness.port))
        return stream

    async def tls(
        self,
        cluster: str = "orders",
        *,
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
    ) -> trio.SSLStream[trio.SocketStream]:
        context = context or self.keys[cluster].client()
        stream = trio.SSLStream(await self.tcp(), context, server_hostname=cluster)
        if session is not None:
            stream.session = session
        await stream.do_handshake()
        return stream

    async def welcomed(self, cluster: str = "orders") -> Channel:
        """A connection that has said hello, for whatever a client may do next."""
        channel = Channel(await self.tls(cluster))
        await channel.send(HELLO)
        await channel.receive()
        return channel

    async def aclose(self) -> None:
        for opened in self._opened:
            await opened.aclose()


_KEYS: dict[str, Keys] = {}


def keys_of(clusters: Iterable[str]) -> dict[str, Keys]:
    """The keys of these clusters; made once, for keys take time."""
    return {name: _KEYS.setdefault(name, Keys(name)) for name in clusters}


@asynccontextmanager
async def running_witness(
    state_dir: Path, clusters: Iterable[str] = ("orders",), **options: Any
) -> AsyncGenerator[Running]:
    """A witness for as long as the block lasts. No bug may have reached its boundary by then."""
    keys = keys_of(clusters)

    async def serve(task_status: trio.TaskStatus[Witness]) -> None:
        await serve_witness(
            state_dir=state_dir,
            contexts={name: keys[name].server() for name in keys},
            host="127.0.0.1",
            port=0,
            task_status=task_status,
            **options,
        )

    async with trio.open_nursery() as nursery:
        running = Running(await nursery.start(serve), keys)
        try:
            yield running
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await running.aclose()
    assert running.witness.counts["bugs"] == 0
    assert running.witness.connections == 0
