"""Rules of the pair without an arbiter, taken out one at a time: what the simulator must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from mirrorha.core import evidence, goodbye, pairwise
from mirrorha.core.detector import Proof as DeathProof
from mirrorha.core.evidence import Proof
from mirrorha.core.messages import RegisterCopy, Standing
from mirrorha.core.state import State
from mirrorha.core.turn import Turn


@contextmanager
def _replaced(module: ModuleType, name: str, rule: Callable[..., Any]) -> Iterator[None]:
    kept = getattr(module, name)
    setattr(module, name, rule)
    try:
        yield
    finally:
        setattr(module, name, kept)


@contextmanager
def commit_without_promise() -> Iterator[None]:
    """A proposal lands as soon as the peer says anything."""
    with _replaced(pairwise, "_may_land", lambda _proposed, _theirs: True):
        yield


@contextmanager
def a_refusing_port_proves_death() -> Iterator[None]:
    """`consistent` believes a firewall."""
    rule = evidence.proof

    def gullible(turn: Turn) -> Proof:
        s = turn.s
        refused = s.detector.verdict(turn.now_ms).proof is DeathProof.REFUSED_EVERYWHERE
        if refused and not s.link and evidence.is_in_session(s):
            return Proof.STOPPED
        return rule(turn)

    with _replaced(evidence, "proof", gullible):
        yield


@contextmanager
def who_granted_also_leaves() -> Iterator[None]:
    """A node that let its peer go gives up as well; and one that gave up still grants."""

    def grants(s: State) -> bool:
        return s.peer is not None

    with (
        _replaced(goodbye, "may_ask", lambda _s: True),
        _replaced(goodbye, "_may_grant", grants),
    ):
        yield


@contextmanager
def both_are_granted() -> Iterator[None]:
    """Of two that ask at once, each lets the other go."""

    def on_heard(turn: Turn, theirs: RegisterCopy, *, agreed: bool) -> None:
        s = turn.s
        if theirs.leaving and s.peer is not None:
            s.pair.grants = s.peer.incarnation

    with _replaced(goodbye, "on_heard", on_heard):
        yield


@contextmanager
def a_restarted_node_starts_alone() -> Iterator[None]:
    """Without having been alone last."""
    rule = evidence.proof

    def forgetful(turn: Turn) -> Proof:
        s = turn.s
        restarted = s.standing is Standing.WAITING and not s.link and not s.meta.outdated
        return Proof.STOPPED if restarted else rule(turn)

    with _replaced(evidence, "proof", forgetful):
        yield


@contextmanager
def doubt_is_ignored() -> Iterator[None]:
    """What was promised, and may have landed, does not hold this node back."""
    with _replaced(pairwise, "is_in_doubt", lambda _s: False):
        yield


@contextmanager
def the_split_is_ignored() -> Iterator[None]:
    """Nobody tells of it."""
    with _replaced(pairwise, "_report_split", lambda _turn, _theirs: None):
        yield


@contextmanager
def nobody_gives_way() -> Iterator[None]:
    """The losing side of a split serves on."""
    with _replaced(pairwise, "_yield_to", lambda _turn, _theirs, _rule: None):
        yield


@contextmanager
def epochs_may_fall() -> Iterator[None]:
    """Who won a split does not rise above the other side's epoch before it fills it."""
    with _replaced(pairwise, "_raise_epoch", lambda _turn: None):
        yield


@contextmanager
def silence_is_not_needed() -> Iterator[None]:
    """`available` goes on as soon as a port refuses and the isolation checks answer."""
    with _replaced(evidence, "_is_silent", lambda _turn: True):
        yield
