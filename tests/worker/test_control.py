"""The socket pair between an application and its worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from mirrorha.core.orders import Follow, StopReason, Trouble
from mirrorha.core.words import Mode
from mirrorha.volume.worker.control import (
    KEPT_MAX,
    Control,
    ControlBrokenError,
    ControlClosedError,
    control_pair,
)
from mirrorha.volume.worker.messages import (
    Connection,
    Exited,
    FromWorker,
    Give,
    Pong,
    Status,
    Told,
    ToWorker,
)

Ends = tuple[Control, Control]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The application's end and the worker's."""
    ours, theirs = control_pair()
    application = Control(ours, incoming=FromWorker)
    worker = Control(theirs, incoming=ToWorker)
    yield application, worker
    application.close()
    worker.close()


def test_messages_keep_their_order_and_their_kinds(ends: Ends) -> None:
    application, worker = ends
    application.send(Give(Follow(epoch=3, generation="g", round=2)))
    worker.send(Told(Trouble(StopReason.OWN_DISK, "it broke")))
    worker.send(Status(mode=Mode.MIRROR, seq=7, peer_seq=6))
    assert [each.message for each in worker.receive()] == [Give(Follow(3, "g", 2))]
    assert [each.message for each in application.receive()] == [
        Told(Trouble(StopReason.OWN_DISK, "it broke")),
        Status(mode=Mode.MIRROR, seq=7, peer_seq=6),
    ]
    assert application.receive() == []


def test_a_descriptor_is_handed_over_and_not_kept_here(ends: Ends) -> None:
    application, worker = ends
    one, other = socket.socketpair()
    descriptor = one.detach()
    application.send(Connection(1, b"hello", True, "7", False), descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    (packet,) = worker.receive()
    with socket.socket(fileno=packet.descriptor) as passed, other:
        assert not passed.get_inheritable()
        passed.send(b"x")
        assert other.recv(1) == b"x"


def test_garbage_is_no_message(ends: Ends) -> None:
    application, worker = ends
    os.write(application.fileno(), b"\x93\x01\x02 is nothing that anybody says")
    with pytest.raises(ControlBrokenError):
        worker.receive()


def test_what_only_the_other_end_may_say_is_no_message(ends: Ends) -> None:
    application, worker = ends
    application.send(Exited("I am not the worker"))
    with pytest.raises(ControlBrokenError):
        worker.receive()


def test_the_last_words_are_heard_before_the_end(ends: Ends) -> None:
    application, worker = ends
    worker.send(Exited("done"))
    worker.close()
    assert [each.message for each in application.receive()] == [Exited("done")]
    with pytest.raises(ControlClosedError):
        application.receive()
    with pytest.raises(ControlClosedError):
        application.send(Give(Follow(1, "g", 1)))


def test_an_end_that_does_not_read_gets_the_newest_status_only(ends: Ends) -> None:
    application, worker = ends
    while not worker.has_unsent:
        worker.send(Pong(1))
    for seq in range(3 * KEPT_MAX):
        worker.send(Status(seq=seq))
    seen = application.receive()
    while True:
        worker.flush()
        more = application.receive()
        if not more:
            break
        seen += more
    statuses = [each.message.seq for each in seen if isinstance(each.message, Status)]
    assert statuses == [3 * KEPT_MAX - 1]


def test_an_end_that_never_reads_is_given_up(ends: Ends) -> None:
    _, worker = ends

    def tell_and_tell() -> None:
        for _ in range(100 * KEPT_MAX):
            worker.send(Pong(1))

    with pytest.raises(ControlBrokenError):
        tell_and_tell()
