"""An address that the serving node has, and the other one does not."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, final

import trio

from mirrorha.abc import Switch
from mirrorha.config.kinds import LAPSE_S
from mirrorha.errors import LocalUsageError, SwitchError
from mirrorha.switches import netlink
from mirrorha.switches.neighbours import open_link
from mirrorha.switches.packets import mac_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

GUARDIAN: Final = "mirrorha.switches.guardian"
#: How long a guardian that was told to go may take.
GUARDIAN_END_S: Final = 2.0

_log: Final = logging.getLogger(__name__)


@final
class VirtualIp(Switch):
    """An IPv4 or IPv6 address on an interface of the node that serves.

    Before it is taken, the link is asked whether anybody has it: then it is not taken, and tried
    again soon. Afterwards the neighbours are told, three times. It lapses by itself if this
    program hangs, and is removed within moments if it is killed. Needs the rights to change
    addresses and to send raw packets (root, or CAP_NET_ADMIN and CAP_NET_RAW).

    Args:
        address: With its prefix length, such as "10.0.1.100/24" or "fd00:1::100/64".
        interface: Which gets it, such as "eth0".
        detect_s: How long the link is asked for others that have the address; 0: not at all.
        lapse_s: Seconds after which it lapses by itself unless it is renewed.

    Raises:
        LocalUsageError: the address is none, or a time is out of range.
    """

    kind: ClassVar[str] = "virtual_ip"

    def __init__(
        self, address: str, interface: str, *, detect_s: float = 0.2, lapse_s: float = LAPSE_S
    ) -> None:
        try:
            self._interface: Final = ipaddress.ip_interface(address)
        except ValueError as error:
            raise LocalUsageError(f"a virtual IP is such as 10.0.1.100/24: {error}") from error
        if "/" not in address:
            raise LocalUsageError(f"{address} lacks its prefix length, such as {address}/24")
        if not 0 <= detect_s < math.inf or not 1 <= lapse_s < math.inf:
            raise LocalUsageError("detect_s is 0 or more, lapse_s is 1 or more")
        self._name: Final = interface
        self._detect_s: Final = detect_s
        self._lapse_s: Final = math.ceil(lapse_s)
        # One thread: what was left behind when a call was cancelled ends before the next begins.
        self._limiter: Final = trio.CapacityLimiter(1)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._guarded = 0  # the interface that it looks after, by its number
        self._taken = 0  # where this was added last: an interface may be renamed

    def __str__(self) -> str:
        return f"virtual_ip {self._interface.ip} on {self._name}"

    async def engage(self) -> None:
        """Take the address, and tell the neighbours. Cancelled, it may have been taken.

        Raises:
            SwitchError: another machine has it, or the system refuses.
        """
        with self._translated():
            index = socket.if_nametoindex(self._name)
            async with open_link(self._name, self._interface.ip) as link:
                if not await self._is_held(index):
                    owner = await link.find_owner(self._detect_s)
                    if owner is not None:
                        raise SwitchError(
                            f"{self._interface.ip} is in use on {self._name} by {mac_text(owner)}: "
                            "not taken",
                            passes_within_s=self._lapse_s,  # if it is the other node that hangs
                        )
                self._taken = index
                await self._in_thread(lambda: self._take(index))
                await link.announce()
        await self._in_thread(lambda: self._ensure_guardian(index))

    async def disengage(self) -> None:
        """Remove the address, if it is there.

        Raises:
            SwitchError: the system refuses.
        """
        with self._translated():
            await self._in_thread(self._remove)
        await self._in_thread(self._dismiss_guardian)

    async def is_engaged(self) -> bool:
        """Whether the interface has the address."""
        with self._translated():
            try:
                index = socket.if_nametoindex(self._name)
            except OSError:
                return False
            return await self._is_held(index)

    async def renew(self) -> None:
        """Put off its lapsing, and tell the neighbours once more."""
        with self._translated():
            index = self._taken = socket.if_nametoindex(self._name)
            await self._in_thread(lambda: self._add(index))
            async with open_link(self._name, self._interface.ip) as link:
                await link.announce(times=1)
        await self._in_thread(lambda: self._ensure_guardian(index))

    async def _is_held(self, index: int) -> bool:
        held = await self._in_thread(lambda: netlink.addresses(index))
        return any(each.interface.ip == self._interface.ip and each.is_usable for each in held)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(
            function, abandon_on_cancel=True, limiter=self._limiter
        )

    # ---- in the thread ----

    def _take(self, index: int) -> None:
        """Add it so that it is usable, lapses, and takes nothing along when it goes."""
        ours = self._interface
        if ours.version == 4:
            try:
                netlink.keep_others(self._name)
            except OSError as error:
                text = error.strerror
                _log.warning("%s: other addresses may go with it: %s", self, text)
        for held in netlink.addresses(index):
            if held.interface.ip == ours.ip and not held.is_usable:
                netlink.remove_interface(index, held.interface)
        self._add(index)
        # With another prefix length it would be there for ever. (Of IPv6 there is only one.)
        for held in netlink.addresses(index):
            if held.interface.ip == ours.ip and held.interface != ours and ours.version == 4:
                netlink.remove_interface(index, held.interface)

    def _add(self, index: int) -> None:
        netlink.add_address(index, self._interface, lapse_s=self._lapse_s)

    def _remove(self) -> None:
        indexes = {self._taken} - {0}
        with contextlib.suppress(OSError):  # with the interface its addresses are gone
            indexes.add(socket.if_nametoindex(self._name))
        for index in indexes:
            netlink.remove_address(index, self._interface.ip)
        self._taken = 0

    def _ensure_guardian(self, index: int) -> None:
        if self._guardian is not None and self._guardian.poll() is None and self._guarded == index:
            return
        self._dismiss_guardian()
        self._guarded = index
        guarded = (str(index), str(self._interface.ip), str(os.getpid()))
        try:
            self._guardian = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", GUARDIAN, *guarded],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            # The address lapses by itself all the same, only later.
            _log.warning("nothing guards %s: %s", self._interface.ip, error)

    def _dismiss_guardian(self) -> None:
        guardian, self._guardian = self._guardian, None
        if guardian is None:
            return
        try:
            guardian.communicate(b".", timeout=GUARDIAN_END_S)
        except (OSError, subprocess.TimeoutExpired):
            guardian.kill()
            guardian.wait()

    # ---- errors ----

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise SwitchError(
                f"{self}: not permitted: run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
            ) from error
        except OSError as error:
            raise SwitchError(f"{self}: {error.strerror or error}") from error
