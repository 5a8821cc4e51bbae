"""The hello: what two nodes tell each other before they are connected, and whether they fit.

Both send a `Hello`; each compares the two and answers `Welcome` or `Refused`. Connected is who
has sent a `Welcome` and received one. The comparison is symmetric, so that both nodes' logs name
the same differences.

Later versions append fields, and add keys to `must_agree` only when their value is not the
default: an older node that lacks such a key would be refused.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import attrs
import msgspec

from mirrorha.errors import LocalUsageError, PeerProtocolError, ensure
from mirrorha.wire.codec import Codec
from mirrorha.wire.limits import (
    FRAME_HEADER_BYTES,
    HELLO_FRAME_BYTES_MAX,
    HELLO_KEY_LENGTH_MAX,
    HELLO_KEYS_MAX,
    HELLO_VALUE_LENGTH_MAX,
    KIB,
    LABEL_LENGTH_MAX,
    REASON_LENGTH_MAX,
)

MAGIC: Final = "mirrorha"
# What this program speaks. A version is agreed upon for a whole connection.
VERSION_MIN: Final = 1
VERSION_MAX: Final = 1

CONTROL: Final = "control"
STREAM: Final = "stream"

# A hostile hello's keys must not make our refusal too long to be sent.
_REFUSED_KEYS_BYTES_MAX: Final = 16 * KIB
# So much of a value is quoted in a refusal; digests and names are shorter.
_QUOTED_LENGTH_MAX: Final = 100

Label = Annotated[str, msgspec.Meta(max_length=LABEL_LENGTH_MAX)]
Line = Annotated[str, msgspec.Meta(max_length=HELLO_KEY_LENGTH_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=HELLO_VALUE_LENGTH_MAX)]
Settings = Annotated[dict[Line, Text], msgspec.Meta(max_length=HELLO_KEYS_MAX)]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Who I am, whom I mean, and what must be the same on both sides.

    Attributes:
        version_min, version_max: the versions that the sender speaks.
        cluster: the cluster's name.
        cluster_id: the cluster's random id; None on a node that is new.
        node, peer: the sender's name; whom it means to talk to.
        kind: "control", or "stream" for the data of one volume.
        volume: which volume, of a stream; "" else.
        incarnation: which start of the sending program this is.
        boot_id: which start of its operating system.
        must_agree: settings that have to be the same, as text or digest, by name.
        may_differ: the other settings; a difference is shown as a warning.
        software: the sender's version, for people.
    """

    magic: Line
    version_min: int
    version_max: int
    cluster: Label
    cluster_id: Line | None
    node: Label
    peer: Label
    kind: Line
    volume: Text
    incarnation: Line
    boot_id: Line
    must_agree: Settings = {}
    may_differ: Settings = {}
    software: Line = ""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The sender accepts, and will speak this version."""

    version: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sender will not be connected to the receiver, and closes.

    Attributes:
        reason: all that is wrong, for people.
        keys: the settings that must agree and do not.
    """

    reason: Annotated[str, msgspec.Meta(max_length=REASON_LENGTH_MAX)]
    keys: Annotated[tuple[Line, ...], msgspec.Meta(max_length=HELLO_KEYS_MAX)] = ()


HELLO_CODEC: Final[Codec[Hello | Welcome | Refused]] = Codec(
    Hello | Welcome | Refused, bytes_max=HELLO_FRAME_BYTES_MAX - FRAME_HEADER_BYTES
)


ensure(
    4 * REASON_LENGTH_MAX + _REFUSED_KEYS_BYTES_MAX + 2 * KIB < HELLO_FRAME_BYTES_MAX,
    "a refusal fits in its frame, whatever it quotes",
)


def encode_hello(hello: Hello) -> bytes:
    """Encode this node's own hello, as the other side will read it.

    Raises:
        LocalUsageError: something in it is longer than the other side would accept; where that is
            a setting, give its digest.
    """
    raw = msgspec.msgpack.encode(hello)
    try:
        HELLO_CODEC.decode(raw)
    except PeerProtocolError as error:
        raise LocalUsageError(f"this node's hello would be refused: {error}") from error
    return raw


class HelloRule(enum.Enum):
    """Why two nodes do not belong together."""

    NOT_MIRRORHA = "not-mirrorha"
    NO_COMMON_VERSION = "no-common-version"
    OTHER_CLUSTER = "other-cluster"
    OTHER_CLUSTER_ID = "other-cluster-id"
    SAME_NODE = "same-node"
    OTHER_NODE = "other-node"
    OTHER_KIND = "other-kind"
    OTHER_VOLUME = "other-volume"
    SETTING_DIFFERS = "setting-differs"
    LEFT_OVER = "left-over"


@attrs.frozen
class Difference:
    """One thing that keeps two nodes apart; `key` names the setting, if it is one."""

    rule: HelloRule
    text: str
    key: str = ""


@attrs.frozen
class Agreed:
    """The two fit.

    Attributes:
        version: the protocol version to speak.
        peer: the other side's hello.
        warnings: the settings that differ and may, by name, with both values.
    """

    version: int
    peer: Hello
    warnings: tuple[str, ...]


@attrs.frozen
class Disagreement:
    """The two do not fit, for all these reasons."""

    differences: tuple[Difference, ...]

    @property
    def reason(self) -> str:
        """All differences in one line, of bounded length."""
        return shortened("; ".join(each.text for each in self.differences), REASON_LENGTH_MAX)

    def as_refused(self) -> Refused:
        """What the other side is told."""
        keys, room_bytes = [], _REFUSED_KEYS_BYTES_MAX
        for each in self.differences:
            room_bytes -= len(each.key.encode())
            if each.key and room_bytes >= 0:
                keys.append(each.key)
        return Refused(reason=self.reason, keys=tuple(keys[:HELLO_KEYS_MAX]))


def shortened(text: str, length_max: int) -> str:
    """Return `text` if it is short enough, else its beginning and an ellipsis."""
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def printable(text: str) -> str:
    """Return `text` without what could steer a terminal or forge a line of a log."""
    return "".join(char if char.isprintable() else "?" for char in text)


def compare(mine: Hello, theirs: Hello) -> Agreed | Disagreement:
    """Decide whether two nodes belong together, and say everything that speaks against it."""
    ensure(mine.magic == MAGIC and mine.node != mine.peer, "our own hello is right")
    if theirs.magic != MAGIC:
        text = f"the other side says it is {_quoted(theirs.magic)}, not {MAGIC}"
        return Disagreement((Difference(HelloRule.NOT_MIRRORHA, text),))
    differences = (
        *_version_differences(mine, theirs),
        *_cluster_differences(mine, theirs),
        *_node_differences(mine, theirs),
        *_purpose_differences(mine, theirs),
        *_setting_differences(mine, theirs),
    )
    if differences:
        return Disagreement(differences)
    return Agreed(
        version=min(mine.version_max, theirs.version_max),
        peer=theirs,
        warnings=tuple(
            f"{_quoted(key)} differs: {both}"
            for key, both in _unequal(mine, mine.may_differ, theirs, theirs.may_differ)
        ),
    )


def _version_differences(mine: Hello, theirs: Hello) -> list[Difference]:
    lowest = max(mine.version_min, theirs.version_min)
    if lowest <= min(mine.version_max, theirs.version_max):
        return []
    text = (
        "no protocol version in common: "
        f"{_pair(mine, _versions(mine), theirs, _versions(theirs))}; bring both to one release"
    )
    return [Difference(HelloRule.NO_COMMON_VERSION, text)]


def _cluster_differences(mine: Hello, theirs: Hello) -> list[Difference]:
    if mine.cluster != theirs.cluster:
        text = f"the cluster differs: {_pair(mine, mine.cluster, theirs, theirs.cluster)}"
        return [Difference(HelloRule.OTHER_CLUSTER, text)]
    # A node that is new has no id yet; the register decides what becomes of it.
    if None in {mine.cluster_id, theirs.cluster_id} or mine.cluster_id == theirs.cluster_id:
        return []
    ids = _pair(mine, mine.cluster_id or "", theirs, theirs.cluster_id or "")
    text = f"these are two clusters of the name {_quoted(mine.cluster)}; the id differs: {ids}"
    return [Difference(HelloRule.OTHER_CLUSTER_ID, text)]


def _node_differences(mine: Hello, theirs: Hello) -> list[Difference]:
    if mine.node == theirs.node:
        text = (
            f"both sides call themselves {_quoted(mine.node)}; was --node given the same on both, "
            "or does an address lead back to its own machine?"
        )
        return [Difference(HelloRule.SAME_NODE, text)]
    wrong = [
        f"{_who(one)} means to talk to {_quoted(one.peer)}, but this is {_who(other)}"
        for one, other in ((mine, theirs), (theirs, mine))
        if one.peer != other.node
    ]
    return [Difference(HelloRule.OTHER_NODE, text) for text in sorted(wrong)]


def _purpose_differences(mine: Hello, theirs: Hello) -> list[Difference]:
    if mine.kind != theirs.kind:
        text = f"the kind of connection differs: {_pair(mine, mine.kind, theirs, theirs.kind)}"
        return [Difference(HelloRule.OTHER_KIND, text)]
    if mine.volume != theirs.volume:
        text = f"the volume differs: {_pair(mine, mine.volume, theirs, theirs.volume)}"
        return [Difference(HelloRule.OTHER_VOLUME, text)]
    return []


def _setting_differences(mine: Hello, theirs: Hello) -> list[Difference]:
    return [
        Difference(HelloRule.SETTING_DIFFERS, f"{_quoted(key)} must agree and differs: {both}", key)
        for key, both in _unequal(mine, mine.must_agree, theirs, theirs.must_agree)
    ]


def _unequal(
    mine: Hello, my_values: dict[str, str], theirs: Hello, their_values: dict[str, str]
) -> list[tuple[str, str]]:
    """The keys whose values differ or that one side lacks, each with both values as text."""
    return [
        (key, _pair(mine, my_values.get(key), theirs, their_values.get(key)))
        for key in sorted(my_values.keys() | their_values.keys())
        if my_values.get(key) != their_values.get(key)
    ]


def _pair(mine: Hello, my_value: str | None, theirs: Hello, their_value: str | None) -> str:
    """Both values with whose they are, in the order of names: alike in both nodes' logs."""
    said = [(_who(mine), my_value), (_who(theirs), their_value)]
    first, second = sorted(said, key=lambda each: (each[0], each[1] is not None, each[1] or ""))
    return f"{_quoted(first[1])} on {first[0]}, {_quoted(second[1])} on {second[0]}"


def _who(hello: Hello) -> str:
    return _quoted(hello.node)


def _versions(hello: Hello) -> str:
    if hello.version_min == hello.version_max:
        return str(hello.version_min)
    return f"{hello.version_min} to {hello.version_max}"


def _quoted(value: str | None) -> str:
    return "nothing" if value is None else f"'{printable(shortened(value, _QUOTED_LENGTH_MAX))}'"
