"""What a node asks for. `Batch` makes the order a matter of type: durable before visible."""

from __future__ import annotations

import attrs

from mirrorha.core.events import AnyEvent
from mirrorha.core.messages import AnyMessage
from mirrorha.core.meta import Meta
from mirrorha.core.orders import AnyOrder
from mirrorha.core.register import Register
from mirrorha.core.words import Role


@attrs.frozen
class SendPeer:
    """On the control session `link`; dropped if that is no longer the current one."""

    link: int
    message: AnyMessage


@attrs.frozen
class ReadRegister:
    token: int


@attrs.frozen
class Cas:
    """One attempt at the arbiter. `expected` None: only if there is no record."""

    token: int
    expected: Register | None
    new: Register


@attrs.frozen
class Give:
    """An order to one volume."""

    volume: str
    order: AnyOrder


@attrs.frozen
class StartService:
    token: int
    epoch: int
    from_role: Role
    to_role: Role
    why: str


@attrs.frozen
class StopService:
    token: int
    epoch: int
    from_role: Role
    to_role: Role
    why: str


@attrs.frozen
class SayGoodbye:
    """By heartbeat, on every path, at once: this incarnation serves and acknowledges nothing."""

    why: str


@attrs.frozen
class ProbePort:
    """Try the peer's port on every path; if all refuse, answer with `PortRefused`."""

    incarnation: int


@attrs.frozen
class DropLink:
    """Close the control session; it is dialled again."""

    link: int
    why: str


@attrs.frozen
class MarkVolumes:
    """Write the volumes' ids of this cluster into their roots. Idempotent."""

    cluster_id: str


@attrs.frozen
class RoleMoved:
    """The role changed. `rule` is the name of the role table's trigger."""

    epoch: int
    from_role: Role
    to_role: Role
    rule: str
    why: str


@attrs.frozen
class Note:
    """Something for history and log that is not a role change. `rule` names what fired."""

    rule: str
    text: str
    alarm: bool = False


@attrs.frozen
class CommandDone:
    operation: str
    done: bool
    text: str


@attrs.frozen
class Feed:
    """Give this event to the node: what it tells is true once this batch is durable."""

    event: AnyEvent


@attrs.frozen
class RunIsolationChecks:
    """Try every isolation check at once; answer with `IsolationChecked`, within some seconds."""

    token: int


@attrs.frozen
class AskFencer:
    """Have the peer stopped; answer with `FencerAnswered`, also if nothing can be confirmed."""

    token: int
    incarnation: int


AnyEffect = (
    SendPeer
    | ReadRegister
    | Cas
    | Give
    | StartService
    | StopService
    | SayGoodbye
    | ProbePort
    | DropLink
    | MarkVolumes
    | RoleMoved
    | Note
    | CommandDone
    | Feed
    | RunIsolationChecks
    | AskFencer
)


@attrs.frozen
class Batch:
    """What a step asks for. `after` may run only once `persist` is on disk."""

    persist: Meta | None = None
    after: tuple[AnyEffect, ...] = ()
