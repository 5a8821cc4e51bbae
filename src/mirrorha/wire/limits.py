"""Every limit of the wire between two nodes, in one place, and how they depend on each other.

A length that comes from the network is compared with one of these before anything is allocated.
A limit may be raised by a later version; it must then go on sending no more than the lower one
until the peer has said that it speaks that version.
"""

from __future__ import annotations

from typing import Final

from mirrorha.errors import ensure

KIB: Final = 1024
MIB: Final = 1024 * KIB

# What is compared and copied in a resync; what the touched log has one entry for.
BLOCK_BYTES: Final = 64 * KIB
SEGMENT_BYTES: Final = 1 * MIB

# Linux: NAME_MAX, PATH_MAX, XATTR_NAME_MAX, XATTR_SIZE_MAX.
NAME_BYTES_MAX: Final = 255
PATH_BYTES_MAX: Final = 4096
XATTR_NAME_BYTES_MAX: Final = 255
XATTR_BYTES_MAX: Final = 64 * KIB

# The largest write that the kernel hands to a FUSE server: 256 pages.
WRITE_BYTES_MAX: Final = 1 * MIB
# What travels in a frame beside the bytes of a write: names, xattrs, numbers.
OP_HEAD_BYTES_MAX: Final = 128 * KIB

FRAME_HEADER_BYTES: Final = 24
# Whole frames, their header included.
FRAME_BYTES_MAX: Final = 2 * MIB
CONTROL_FRAME_BYTES_MAX: Final = 256 * KIB
HELLO_FRAME_BYTES_MAX: Final = 64 * KIB

# What a hello may say. It comes from whoever holds a certificate of the cluster.
HELLO_KEYS_MAX: Final = 256
HELLO_KEY_LENGTH_MAX: Final = 128
HELLO_VALUE_LENGTH_MAX: Final = 4096
REASON_LENGTH_MAX: Final = 2048

# Node and cluster names are labels of host names, for they stand in certificates (RFC 1035).
LABEL_LENGTH_MAX: Final = 63

# Parts of a frame up to here are joined by copying, for a copy of 16 KiB costs less than another
# system call or another TLS record; larger ones are sent from where they are.
JOIN_BYTES_MAX: Final = 16 * KIB
# What is taken from a socket at once, and sent to it at once.
RECEIVE_BYTES_MAX: Final = 256 * KIB
SEND_BATCH_BYTES: Final = 256 * KIB
# What may wait to be sent in one session before senders wait.
SEND_QUEUE_BYTES_MAX: Final = 4 * MIB
SEND_QUEUE_FRAMES_MAX: Final = 1024

# TLS 1.3 limits what may be encrypted under one key: 2**24.5 records (RFC 8446, 5.5), 388 GB at the
# most. OpenSSL does not change keys by itself, and Python cannot ask it to: the connection is left
# well before, and made anew.
TLS_RECORDS_MAX: Final = 1 << 24
TLS_RECORD_BYTES: Final = 16 * KIB

# Connections of strangers that are served at the same time.
UNKNOWN_CONNECTIONS_MAX: Final = 16

ensure(SEGMENT_BYTES % BLOCK_BYTES == 0, "a segment is a whole number of blocks")
ensure(
    WRITE_BYTES_MAX + OP_HEAD_BYTES_MAX + FRAME_HEADER_BYTES <= FRAME_BYTES_MAX,
    "the largest write and what goes with it fit in a frame",
)
ensure(
    2 * PATH_BYTES_MAX + XATTR_NAME_BYTES_MAX + XATTR_BYTES_MAX < OP_HEAD_BYTES_MAX,
    "a rename between the longest paths, or the largest xattr, fits beside a write",
)
ensure(
    HELLO_FRAME_BYTES_MAX <= CONTROL_FRAME_BYTES_MAX <= FRAME_BYTES_MAX,
    "who is known is trusted with longer frames",
)
ensure(SEND_QUEUE_BYTES_MAX >= 2 * FRAME_BYTES_MAX, "a frame waits while another one is sent")
ensure(JOIN_BYTES_MAX <= SEND_BATCH_BYTES, "joined parts fit in what is sent at once")
