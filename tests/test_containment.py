"""What foreign code raises comes back as a value, but for what must pass."""

from __future__ import annotations

import pytest
import trio

from mirrorha.containment import Raised, Returned, contain
from mirrorha.errors import TEXT_CHARS_MAX, CheckFailedError, describe


async def raise_it(error: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise error


class OddError(BaseException):
    """Derives from what nobody should derive from."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(3),
        OddError(),
        ExceptionGroup("g", [ValueError("x")]),
        BaseExceptionGroup("g", [SystemExit(3), ValueError()]),
    ],
)
async def test_it_comes_back(error: BaseException) -> None:
    outcome = await contain(lambda: raise_it(error))
    assert isinstance(outcome, Raised)
    assert outcome.error is error


async def test_a_value_comes_back() -> None:
    async def value() -> int:
        return 7

    assert await contain(value) == Returned(7)


async def test_ctrl_c_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        await contain(lambda: raise_it(KeyboardInterrupt()))
    with pytest.RaisesGroup(KeyboardInterrupt):
        group = BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError()])
        await contain(lambda: raise_it(group))


async def test_cancellation_passes() -> None:
    with trio.move_on_after(0) as scope:
        await contain(trio.sleep_forever)
    assert scope.cancelled_caught


async def test_what_fails_while_being_cancelled_does_not_escape(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The `ValueError` would come out of the cancelled scope and end the node."""

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in cleaning up")

    async def with_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(contain, with_nursery)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert "in cleaning up" in caplog.text


def test_describing_is_bounded_and_on_one_line() -> None:
    assert describe(ValueError("a\n b")) == "ValueError: a b"
    assert describe(ValueError()) == "ValueError"
    assert describe(CheckFailedError("the disk is full")) == "the disk is full"
    assert describe(CheckFailedError("")) == "CheckFailedError"
    nested = ExceptionGroup("g", [ExceptionGroup("h", [KeyError("k")])])
    assert describe(nested) == "KeyError: 'k'"
    assert len(describe(ValueError("x" * 10_000))) == TEXT_CHARS_MAX
