"""One tree of errors. Each leaf says whose fault it is, and what to do now.

Nothing here imports anything of mirrorha: every layer may raise these.
"""

from __future__ import annotations

from typing import Final, NoReturn

#: A message is shown in a status document and logged; a page of text belongs in neither.
TEXT_CHARS_MAX: Final = 500


class MirrorHAError(Exception):
    """Base of every error that mirrorha raises on purpose."""


class LocalUsageError(MirrorHAError):
    """You called something at the wrong time or with the wrong value. Fix the call."""


class ConfigError(LocalUsageError):
    """The configuration is wrong. `problems` lists everything that was found, one line each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems: Final = problems
        super().__init__("\n".join(problems))


class PathOutsideVolumeError(LocalUsageError):
    """A path leaves the volume's root. Give a path relative to the root, without `..`."""


class NotPrimaryError(MirrorHAError):
    """This node may not write now. Retry on the node named by `primary`, if it is known."""

    def __init__(self, *, primary: str | None, why: str = "") -> None:
        self.primary: Final = primary
        self.why: Final = why
        where = f"write on node '{primary}'" if primary else "no node is known to serve now"
        super().__init__(f"this node may not write{': ' + why if why else ''}; {where}")


class OutcomeUnknownError(MirrorHAError):
    """The node lost its authority while this write was pending: it may or may not survive.

    Read it back on the node that serves now before you repeat it.
    """


class VolumeError(MirrorHAError):
    """A volume cannot be used as it is: missing, not mounted, unknown contents, failing disk."""


class StateError(MirrorHAError):
    """The node's own state cannot be read or written. Look at the disk that `state_dir` is on."""


class PeerError(MirrorHAError):
    """Something the other node did or is."""


class PeerProtocolError(PeerError):
    """The peer sent what the protocol forbids. The link is closed; a new one is dialled."""


class PeerLostError(PeerError):
    """The connection to the peer ended, broke or could not be made. Dial again.

    It says nothing about the peer itself: not that it stopped, and not that it goes on.
    """


class PeerRefusedError(PeerError):
    """The two nodes do not belong together; `reason` names what differs, for both sides' logs."""

    def __init__(self, reason: str) -> None:
        self.reason: Final = reason
        super().__init__(reason)


class HttpError(MirrorHAError):
    """An HTTP exchange was not completed. Any answer, 500 too, is a completed one.

    `sent` is False if the request surely never reached the server; True means that the server
    may have carried it out, now or later.
    """

    def __init__(self, text: str, *, sent: bool) -> None:
        self.sent: Final = sent
        super().__init__(text)


class ArbiterError(MirrorHAError):
    """The arbiter did not do what was asked. Never taken for a 'no'."""


class ArbiterUnavailableError(ArbiterError):
    """No answer, or the request surely never left this node: nothing has changed there."""


class ArbiterOutcomeUnknownError(ArbiterError):
    """A compare-and-swap was sent and its reply is missing: it may have landed, or land later."""


class ServiceError(MirrorHAError):
    """The application's start or stop failed or missed its deadline. Look at its own log."""


class SwitchError(MirrorHAError):
    """Clients cannot be moved to or from this node; the text says why. No role depends on it.

    Attributes:
        passes_within_s: seconds within which what is in the way is likely to be gone by itself, so
            that a service which needs the switch does well to wait; 0: who knows.
    """

    def __init__(self, text: str, *, passes_within_s: float = 0) -> None:
        super().__init__(text)
        self.passes_within_s = passes_within_s


class FencerError(MirrorHAError):
    """A fencer did not confirm that the peer is stopped: that is no answer, not a 'no'."""


class NotifyError(MirrorHAError):
    """Somebody could not be told of something; the text says why. Nothing waits for it."""


class CheckFailedError(MirrorHAError):
    """The service is not well; the text says what was seen. Raise it from a check of your own."""


class CommandRefusedError(MirrorHAError):
    """An operator's command cannot be carried out now; the text says why and what would help."""


class NotRunningError(MirrorHAError):
    """No node answers on the management socket. Start it with `mirrorha run`."""


class InvariantViolation(Exception):  # noqa: N818 - it is not an error to handle but a verdict
    """A bug in mirrorha. The node fences itself: it stops serving before anything else."""


def describe(error: BaseException) -> str:
    """Say in one bounded line what was raised; the first leaf of a group speaks for it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = " ".join(str(error).split())
    kind = type(error).__name__
    if said and isinstance(error, MirrorHAError):
        kind = ""  # ours are written for people; of others the kind may say more than the text
    return ": ".join(part for part in (kind, said) if part)[:TEXT_CHARS_MAX]


def ensure(condition: bool, claim: str) -> None:
    """Check a claim that must hold in every build, `python -O` included.

    Raises:
        InvariantViolation: the claim does not hold.
    """
    if not condition:
        raise InvariantViolation(claim)


def unreachable(why: str) -> NoReturn:
    """Mark a branch that no input may reach."""
    raise InvariantViolation(f"unreachable: {why}")
