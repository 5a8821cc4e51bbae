"""Whether a network interface has a link, asked of the kernel by netlink, and told by it."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, final

import attrs
import trio

# From <linux/netlink.h>, <linux/rtnetlink.h> and <linux/if.h>.
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ERROR: Final = struct.Struct("=i")
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_RTMGRP_LINK: Final = 1
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_ALIGNMENT: Final = 4
_RECEIVE_BYTES: Final = 64 * 1024


@final
@attrs.frozen(kw_only=True)
class Link:
    """An interface as the kernel has it.

    Attributes:
        is_up: an administrator has switched it on.
        is_running: it can carry packets: there is a carrier, or nobody can tell.
    """

    is_up: bool
    is_running: bool


async def read_link(name: str) -> Link:
    """Ask for an interface of this network namespace.

    Raises:
        OSError: ENODEV if there is none of that name.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError as error:  # it says ENODEV, or nothing at all
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
    with await _open_socket(groups=0) as sock:
        body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        length = _HEADER.size + len(body)
        await sock.send(_HEADER.pack(length, _RTM_GETLINK, _NLM_F_REQUEST, 1, 0) + body)
        for kind, answer in _messages(await sock.recv(_RECEIVE_BYTES)):
            if kind == _NLMSG_ERROR:
                (number,) = _ERROR.unpack_from(answer)
                raise OSError(-number, os.strerror(-number))
            if kind == _RTM_NEWLINK:
                flags = _LINK.unpack_from(answer)[3]
                return Link(is_up=bool(flags & _IFF_UP), is_running=bool(flags & _IFF_RUNNING))
    raise OSError(errno.EPROTO, "the kernel did not answer about the interface")


async def wait_link_lost(name: str) -> None:
    """Return once the interface is not up and running, or not there. The kernel tells of it.

    Raises:
        OSError: there is no such socket to be had.
    """
    with await _open_socket(groups=_RTMGRP_LINK) as sock:
        while True:
            try:
                link = await read_link(name)
            except OSError:
                return
            if not (link.is_up and link.is_running):
                return
            await _wait_told(sock)


async def _wait_told(sock: trio.socket.SocketType) -> None:
    """Return once the kernel has told anything about any interface."""
    try:
        await sock.recv(_RECEIVE_BYTES)
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # it has told more than the socket held
            raise


async def _open_socket(*, groups: int) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        await sock.bind((0, groups))
    except BaseException:
        sock.close()
        raise
    return sock


def _messages(told: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds and bodies of the messages in one datagram of the kernel."""
    while len(told) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(told)
        if length < _HEADER.size:
            return
        yield kind, told[_HEADER.size : length]
        told = told[(length + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT :]
