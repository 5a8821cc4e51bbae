"""The register: the one small record that says who may write."""

from __future__ import annotations

from typing import Final

import attrs
import msgspec

from mirrorha.errors import MirrorHAError, ensure

FORMAT: Final = 1
RECORD_BYTES_MAX: Final = 4096


class RegisterCorruptError(MirrorHAError):
    """The arbiter holds something that is not a register of mirrorha. Nobody acts on it."""


class _Record(msgspec.Struct, forbid_unknown_fields=False):
    format: int
    cluster_id: str
    epoch: int
    primary: str
    in_sync: dict[str, str]


@attrs.frozen
class Register:
    """One value of the register.

    Attributes:
        cluster_id: random, drawn when the cluster was made; both nodes keep it.
        epoch: the record's number. It never falls.
        primary: the name of the node that may serve.
        nonces: for each member of `in_sync` its admission nonce, drawn anew for every
            record, as sorted (node, nonce) pairs.
    """

    cluster_id: str
    epoch: int
    primary: str
    nonces: tuple[tuple[str, str], ...]

    def __attrs_post_init__(self) -> None:
        ensure(self.epoch >= 1, "epochs start at 1")
        ensure(self.nonces == tuple(sorted(self.nonces)), "members stand in order")
        ensure(self.primary in self.in_sync, "the primary is in sync with itself")

    @property
    def in_sync(self) -> frozenset[str]:
        """The nodes that hold every acknowledged write."""
        return frozenset(name for name, _ in self.nonces)

    def nonce_of(self, node: str) -> str | None:
        """The admission nonce of `node`, or None if it is not a member."""
        return dict(self.nonces).get(node)

    def is_alone(self, node: str) -> bool:
        """Whether the record names `node`, and only it."""
        return self.in_sync == {node}

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal records give equal bytes, and `cat` can read them."""
        record = _Record(
            format=FORMAT,
            cluster_id=self.cluster_id,
            epoch=self.epoch,
            primary=self.primary,
            in_sync=dict(self.nonces),
        )
        return msgspec.json.encode(record, order="deterministic")

    @classmethod
    def from_bytes(cls, raw: bytes) -> Register:
        """Read what an arbiter returned.

        Raises:
            RegisterCorruptError: it is not a register, or one of a newer format.
        """
        if len(raw) > RECORD_BYTES_MAX:
            raise RegisterCorruptError(f"the record has {len(raw)} bytes; it is not a register")
        try:
            record = msgspec.json.decode(raw, type=_Record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RegisterCorruptError(f"the record is not a register: {error}") from error
        if record.format != FORMAT:
            raise RegisterCorruptError(
                f"the register has format {record.format}, this version reads {FORMAT}; upgrade it"
            )
        if record.epoch < 1 or record.primary not in record.in_sync:
            raise RegisterCorruptError("the register contradicts itself; was it edited by hand?")
        return cls(
            cluster_id=record.cluster_id,
            epoch=record.epoch,
            primary=record.primary,
            nonces=tuple(sorted(record.in_sync.items())),
        )
