"""Losses known from models of the protocol: the rule whose absence costs them, and where to look.

Each was first found in a model that is smaller than the production core. Here the same rule is
taken out of production code, and the explorer has to find a way to the loss by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import attrs

from mirrorha.core.effects import Batch, Cas, SendPeer
from mirrorha.core.messages import Prepared
from mirrorha.core.meta import Meta
from mirrorha.testing.explore.actor import Actor
from mirrorha.testing.explore.scene import Budget
from mirrorha.testing.sim.breakages import broken as broken_rule

Fn = Callable[..., Any]


@attrs.frozen
class Known:
    """A loss that a model knows.

    Attributes:
        budget: the scope in which the explorer finds it.
        breakage: the name of the rule in `mirrorha.testing.sim.breakages`, or "".
        owner, name, make: else what is replaced, and by what.
        quick: found within seconds.
    """

    budget: Budget
    breakage: str = ""
    owner: Any = None
    name: str = ""
    make: Callable[[Fn], Fn] | None = None
    quick: bool = True


@contextmanager
def broken(loss: str) -> Iterator[None]:
    """Take out the rule that prevents this loss while the block lasts."""
    known = KNOWN[loss]
    if known.make is None:
        with broken_rule(known.breakage):
            yield
        return
    real = getattr(known.owner, known.name)
    setattr(known.owner, known.name, known.make(real))
    try:
        yield
    finally:
        setattr(known.owner, known.name, real)


def _persist_after(is_early: Callable[[Any], bool]) -> Callable[[Fn], Fn]:
    """These effects are let out before the state that they depend on is on disk."""

    def make(real: Fn) -> Fn:
        def persist(actor: Actor, before: Meta, batch: Batch) -> None:
            real(actor, before, batch)
            if batch.persist is not None and any(map(is_early, batch.after)):
                actor.durable = before  # until the next thing happens to this node

        return persist

    return make


def _is_cas(effect: object) -> bool:
    return isinstance(effect, Cas)


def _is_prepared(effect: object) -> bool:
    return isinstance(effect, SendPeer) and isinstance(effect.message, Prepared)


NONE: Final = Budget(writes=1, epochs=3, crashes=0, breaks=0, suspicions=0, unanswered=0, delayed=0)


def _scope(**bounds: int) -> Budget:
    return attrs.evolve(NONE, **bounds)


KNOWN: Final[Mapping[str, Known]] = {
    "replay_unresolved": Known(
        _scope(epochs=2, crashes=1, breaks=1, unanswered=1), "replay-unresolved", quick=False
    ),
    "ack_unresolved": Known(
        _scope(epochs=2, crashes=1, breaks=1, unanswered=1), "ack-unresolved", quick=False
    ),
    "adopt_overtaken": Known(
        _scope(crashes=1, suspicions=1, unanswered=1), "adopt-overtaken", quick=False
    ),
    "no_nonce": Known(_scope(crashes=1, breaks=1, images=1), "no-nonce", quick=False),
    "read_is_held": Known(_scope(crashes=1, breaks=1, images=1), "read-is-held", quick=False),
    "nonce_after": Known(
        _scope(crashes=1), owner=Actor, name="_persist", make=_persist_after(_is_cas)
    ),
    "peer_nonce_after": Known(
        _scope(crashes=1, swaps=1), owner=Actor, name="_persist", make=_persist_after(_is_prepared)
    ),
    "freeze_one": Known(_scope(crashes=1, volumes=2, suspicions=1), "freeze-one"),
    "quiet_one": Known(_scope(crashes=1, volumes=2, suspicions=1), "quiet-one"),
    "no_sync": Known(_scope(crashes=1, breaks=1), "no-sync"),
    "release_early": Known(_scope(breaks=1), "release-early"),
    "no_fresh_cas": Known(_scope(crashes=1, breaks=1), "no-fresh-cas", quick=False),
    "own_old_record": Known(
        _scope(epochs=4, breaks=2, unanswered=1), "own-old-record", quick=False
    ),
    "dropjoin": Known(_scope(breaks=2, unanswered=1), "drop-joiner", quick=False),
    "join_ack_alone": Known(_scope(breaks=1, unanswered=1), "join-ack-alone", quick=False),
    "no_cut": Known(_scope(breaks=1), "no-cut"),
    "swap_abort_local": Known(
        _scope(writes=2, epochs=2, swaps=1, unanswered=1, breaks=1), "swap-abort-local", quick=False
    ),
    "swap_no_drain": Known(_scope(swaps=1), "swap-no-drain"),
    "promote_unclean": Known(_scope(crashes=1), "promote-unclean"),
    "lost_register_alone": Known(_scope(losses=1, breaks=1), "lost-register-alone"),
    "recreate_by_epoch": Known(
        _scope(losses=1, breaks=1, unanswered=1), "remake-by-epoch", quick=False
    ),
}
