"""Events and bodies of requests, as the API writes and reads them."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from mirrorha.api.problems import SCHEMA, Problem

if TYPE_CHECKING:
    from mirrorha.api.node import Happening, Missed

T = TypeVar("T", bound=msgspec.Struct)


class InitBody(msgspec.Struct, forbid_unknown_fields=True, rename={"source": "from"}):
    """Of `init`: the node with whose directories the cluster begins."""

    source: str


class ResyncBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `resync`: the node that is filled, and that everything in it is given up; or the rate."""

    node: str | None = None
    full: bool = False
    rate_bytes_per_s: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] | None = None


class VerifyBody(msgspec.Struct, forbid_unknown_fields=True, rename={"source": "from"}):
    """Of `verify`: what is compared, and how; or that it is stopped."""

    volume: str | None = None
    repair: bool = False
    rate_bytes_per_s: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] | None = None
    source: str | None = None
    found: bool = False
    stop: bool = False


class ForcePrimaryBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of `force-primary`: what the operator allows besides."""

    without_arbiter: bool = False
    inconsistent_data: bool = False


class EmptyBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of every other command."""


def decode_body(body: bytes, kind: type[T]) -> T:
    """Read a request's body; none is as good as `{}`.

    Raises:
        Problem: it is something else; the text has the path of what is wrong.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(
            400,
            f"the request's body is wrong: {error}",
            hint=f"send JSON with the fields {', '.join(kind.__struct_encode_fields__) or 'none'}",
        ) from error


def event_document(event: Happening | Missed) -> dict[str, Any]:
    """One event; a gap says how many are missing."""
    missed = getattr(event, "missed", None)
    if missed is not None:
        return {"schema": SCHEMA, "kind": "gap", "missed": missed}
    return _happening_document(event)  # type: ignore[arg-type]


def _happening_document(event: Happening) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "kind": event.kind,
        "at": rfc3339(event.at_s),
        "node": event.node,
        "epoch": event.epoch,
        "role": event.role.value,
        "from_role": event.from_role.value if event.from_role else None,
        "rule": event.rule,
        "text": event.text,
    }


def rfc3339(wall_s: float) -> str:
    """A time since 1970 as text, to the millisecond, in UTC."""
    moment = datetime.datetime.fromtimestamp(wall_s, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
