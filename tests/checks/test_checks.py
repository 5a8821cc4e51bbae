"""Checks: what they see, and what they say."""

from __future__ import annotations

import threading
from functools import partial

import attrs
import pytest
import trio

from mirrorha.abc import Check
from mirrorha.checks import Checker, Custom, Tcp
from mirrorha.errors import CheckFailedError, ConfigError, LocalUsageError


async def test_tcp_is_well_where_somebody_listens() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await Tcp(port).check()
    async with await listener.accept() as accepted:
        with trio.fail_after(1):
            assert await accepted.receive_some(1) in (b"",), "it leaves at once, saying nothing"
    await listener.aclose()
    with pytest.raises(CheckFailedError, match=rf"127\.0\.0\.1:{port}.*refused"):
        await Tcp(port).check()


async def test_tcp_does_not_wait_for_ever() -> None:
    with trio.socket.socket() as full:
        await full.bind(("127.0.0.1", 0))
        full.listen(0)
        check = Tcp(full.getsockname()[1], timeout_s=0.1)
        async with await trio.open_tcp_stream("127.0.0.1", check.port):  # it fills the backlog
            with pytest.raises(CheckFailedError, match=r"no connection within 0\.1 s"):
                await check.check()


async def test_tcp_by_an_unknown_name_fails_with_the_reason() -> None:
    with pytest.raises(CheckFailedError, match=r"nobody\.invalid:80: gaierror"):
        await Tcp(80, host="nobody.invalid").check()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_tcp_wants_a_port(port: int) -> None:
    with pytest.raises(LocalUsageError, match="65535"):
        Tcp(port)


async def well(answer: object = None) -> object:
    await trio.lowlevel.checkpoint()
    return answer


async def ill() -> None:
    raise ZeroDivisionError("ill")


class Callable:
    async def __call__(self) -> None:
        await ill()


@pytest.mark.parametrize(
    "function", [well, lambda: None, lambda: True, partial(well, True), lambda: well(0)]
)
async def test_custom_is_well_if_it_returns(function: object) -> None:
    await Custom(function).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [partial(well, False), lambda: False, lambda: well(False)])
async def test_custom_fails_if_it_returns_false(function: object) -> None:
    with pytest.raises(CheckFailedError, match="returned False"):
        await Custom(function).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function", [ill, partial(ill), lambda x=1: ill(), Callable(), lambda: 1 / 0]
)
async def test_custom_fails_with_what_is_raised(function: object) -> None:
    with pytest.raises(ZeroDivisionError):
        await Custom(function).check()  # type: ignore[arg-type]


async def test_an_ordinary_function_runs_in_a_thread() -> None:
    threads = list[int]()
    await Custom(lambda: threads.append(threading.get_ident())).check()
    assert threads != [threading.get_ident()]


async def test_a_function_that_hangs_is_left_and_not_called_beside_itself() -> None:
    go_on, calls = threading.Event(), list[int]()

    def hang() -> None:
        calls.append(1)
        go_on.wait(10)

    check = Custom(hang)
    try:
        for _ in range(3):
            with trio.move_on_after(0.1) as scope:
                await check.check()
            assert scope.cancelled_caught
        assert calls == [1]
    finally:
        go_on.set()


def test_titles() -> None:
    class Bare(Check):
        kind = "bare"

        async def check(self) -> None:
            """Be well."""

    assert Checker(Tcp(80)).title == "tcp 127.0.0.1:80"
    assert Checker(Custom(ill)).title == "custom ill"
    assert Checker(Bare()).title == "bare"
    assert Checker(Bare(), name="mine").title == "mine"


def test_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Checker(
            ill,  # type: ignore[arg-type]
            every_s=0,
            timeout_s=float("inf"),
            fall=0,
            rise=0,
            on_failure="panic",  # type: ignore[arg-type]
            when="never",  # type: ignore[arg-type]
        )
    assert len(caught.value.problems) == 7


def test_a_checker_is_frozen_and_patient_by_default() -> None:
    checker = Checker(Tcp(80), every_s=7)
    assert (checker.limit_s, checker.fall, checker.rise) == (7, 2, 1)
    assert attrs.evolve(checker, timeout_s=3).limit_s == 3
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        checker.fall = 1  # type: ignore[misc]
