"""The preface: the first line on a connection that is to carry a volume's stream.

It says which volume, before TLS begins, so that whoever accepts the connection can give it to the
process that drives that volume: TLS cannot change hands once it has begun. It proves nothing, and
gives nothing away: the volume is named by a digest, for anybody on the way can read the line.
A connection without it begins with TLS at once.
"""

from __future__ import annotations

import hashlib
from typing import Final

from mirrorha.errors import PeerProtocolError

_MARK: Final = b"MIRRORHA-STREAM 1 "
_LABEL_CHARS: Final = 32
_HEX: Final = frozenset(b"0123456789abcdef")

#: What tells it from TLS, whose first byte is 22, and from a frame.
FIRST_BYTE: Final = _MARK[:1]
#: It has always this length: nobody reads on for the end of a line that never comes.
PREFACE_BYTES: Final = len(_MARK) + _LABEL_CHARS + 1


def stream_label(volume: str) -> str:
    """What the preface calls a volume of this name."""
    return hashlib.sha256(volume.encode()).hexdigest()[:_LABEL_CHARS]


def encode_preface(volume: str) -> bytes:
    """What the node that dials says first."""
    return _MARK + stream_label(volume).encode() + b"\n"


def decode_preface(raw: bytes) -> str:
    """The label in a preface of PREFACE_BYTES.

    Raises:
        PeerProtocolError: it is none.
    """
    label = raw[len(_MARK) : -1]
    well_formed = raw.startswith(_MARK) and raw.endswith(b"\n") and len(raw) == PREFACE_BYTES
    if not well_formed or not _HEX.issuperset(label):
        raise PeerProtocolError("a connection began like a stream's preface and was none")
    return label.decode()
