"""What two nodes say to each other first, in tests."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mirrorha.wire.hello import MAGIC, Hello

PARIS: Final = Hello(
    magic=MAGIC,
    version_min=1,
    version_max=1,
    cluster="orders",
    cluster_id="c1",
    node="paris",
    peer="lyon",
    kind="control",
    volume="",
    incarnation="3",
    boot_id="b1",
    must_agree={"volumes": "/srv", "ack": "applied"},
    may_differ={"probe.port": "9010"},
    software="1.0",
)


def but(hello: Hello, **changes: Any) -> Hello:
    return msgspec.structs.replace(hello, **changes)


LYON: Final = but(PARIS, node="lyon", peer="paris", incarnation="8", boot_id="b2")
