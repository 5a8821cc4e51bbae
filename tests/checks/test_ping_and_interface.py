"""Checks of the network, in a network namespace of the test's own."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mirrorha.checks import Interface, Ping
from mirrorha.errors import CheckFailedError
from mirrorha.net import link_state
from tests.checks.own_network import ip, own_network, veth
from tests.checks.trial import trial


async def test_an_interface_fails_and_recovers() -> None:
    with own_network():
        veth()
        async with trial(Interface("here")) as made:
            await made.is_well()
            ip("link", "set", "there", "down")
            assert await made.fails() == "here has no link: is the cable in?"
            ip("link", "set", "there", "up")
            await made.is_well()
            ip("link", "set", "here", "down")
            assert await made.fails() == "here is switched off"
            ip("link", "set", "here", "up")
            await made.is_well()
            ip("link", "del", "here")
            assert await made.fails() == "here: No such device"


@pytest.mark.parametrize(
    "change",
    [("link", "set", "there", "down"), ("link", "set", "here", "down"), ("link", "del", "here")],
    ids=["no link", "off", "gone"],
)
@pytest.mark.parametrize("when", ["before", "while"])
async def test_the_kernel_tells_of_a_change(change: tuple[str, ...], when: str) -> None:
    """While it waits, and also if it happened between the look and the wait."""
    with own_network():
        veth()
        check = Interface("here")
        with trio.fail_after(30):
            while True:  # the link of a fresh pair takes a moment to come up
                try:
                    await check.check()
                    break
                except CheckFailedError:
                    await trio.sleep(0.01)
            if when == "before":
                ip(*change)
                await check.wait_unwell()
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(check.wait_unwell)
                    await wait_all_tasks_blocked(0.1)
                    assert nursery.child_tasks, "it waits"
                    ip(*change)
        with pytest.raises(CheckFailedError):
            await check.check()


async def test_what_happens_to_others_is_no_sign() -> None:
    with own_network():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Interface("lo").wait_unwell)
            veth()
            ip("link", "del", "here")
            await wait_all_tasks_blocked(0.1)
            assert nursery.child_tasks
            nursery.cancel_scope.cancel()


async def test_the_loopback_is_well() -> None:
    with own_network():
        await Interface("lo").check()


async def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(CheckFailedError, match="nothing0: No such device"):
        await Interface("nothing0").check()
    with trio.fail_after(10):
        await Interface("nothing0").wait_unwell()


@pytest.mark.parametrize("told", [b"", b"x" * 15, b"\x00" * 64, b"\x0f\x00\x00\x00" + b"\x00" * 60])
def test_what_is_no_message_ends_the_reading(told: bytes) -> None:
    assert [*link_state._messages(told)] == []


@pytest.mark.parametrize(("address", "prefix"), [("192.0.2.1", "32"), ("2001:db8::1", "128")])
async def test_a_ping_fails_and_recovers(address: str, prefix: str) -> None:
    with own_network():
        add = ("addr", "add", f"{address}/{prefix}", "dev", "lo")
        ip(*add)
        async with trial(Ping(address), timeout_s=2) as made:
            await made.is_well()
            ip("addr", "del", *add[2:])
            text = await made.fails()
            assert text == "no answer within 2 s" or text.startswith(f"{address}: "), text
            ip(*add)
            await made.is_well()


async def test_a_host_that_says_nothing_is_given_up() -> None:
    with own_network():
        veth()
        ip("addr", "add", "192.0.2.1/24", "dev", "here")  # where packets go and nobody is
        async with trial(Ping("192.0.2.7"), timeout_s=0.3) as made:
            assert await made.fails() == "no answer within 0.3 s"


def test_titles() -> None:
    assert str(Interface("eth0")) == "interface eth0"
    assert str(Ping("10.0.3.1")) == "ping 10.0.3.1"
