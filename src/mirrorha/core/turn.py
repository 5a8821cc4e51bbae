"""One step in the making: the state, the time, and what is to be done once it is durable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import attrs

from mirrorha.core import roles
from mirrorha.core.effects import (
    AnyEffect,
    Batch,
    Cas,
    Give,
    Note,
    ReadRegister,
    RoleMoved,
    SendPeer,
)
from mirrorha.core.messages import AnyMessage, Standing
from mirrorha.core.meta import Meta
from mirrorha.core.orders import AnyOrder, Freeze
from mirrorha.core.register import Register
from mirrorha.core.state import Decision, Stage, State
from mirrorha.core.words import Mode
from mirrorha.errors import ensure


@final
class Turn:
    """Collects what a step wants. Whatever the order of the calls: `persist` goes first."""

    def __init__(self, s: State, now_ms: int) -> None:
        self.s = s
        self.now_ms = now_ms
        self._before = s.meta
        self._after: list[AnyEffect] = []

    def batch(self) -> Batch:
        changed = self.s.meta if self.s.meta != self._before else None
        return Batch(persist=changed, after=tuple(self._after))

    def do(self, effect: AnyEffect) -> None:
        self._after.append(effect)

    def do_first(self, effect: AnyEffect) -> None:
        """Before everything else of this step, but for what it persists."""
        self._after.insert(0, effect)

    def note(self, rule: str, text: str, *, alarm: bool = False) -> None:
        self.do(Note(rule=rule, text=text, alarm=alarm))

    def keep(self, meta: Meta) -> None:
        """Replace the durable state; written before anything of this step is visible."""
        self.s.meta = meta

    def change(self, **changes: Any) -> None:
        self.s.meta = attrs.evolve(self.s.meta, **changes)

    def send(self, message: AnyMessage) -> None:
        if self.s.link:
            self.do(SendPeer(self.s.link, message))

    def order(self, order: AnyOrder) -> None:
        """The same order to every volume: one decision for all of them."""
        for volume in self.s.settings.volumes:
            self.do(Give(volume, order))

    def gather(self, make: Callable[[int], AnyOrder], stage: Stage) -> None:
        """Enter `stage`: order something of every volume; the stage ends when all have answered."""
        decision = self.s.decision
        ensure(decision is not None, "volumes are asked within a decision")
        if decision is not None:
            self.enter(decision, stage)
            decision.token = self.s.next_token()
            decision.missing = set(self.s.settings.volumes)
            self.order(make(decision.token))

    def enter(self, decision: Decision, stage: Stage) -> None:
        decision.stage = stage
        decision.since_ms = self.now_ms
        decision.next_ms = 0

    def freeze(self, stage: Stage = Stage.FREEZE) -> None:
        """Have every volume confirm that it acknowledges nothing."""
        self.note_frozen()
        self.gather(lambda token: Freeze(token=token), stage)

    def note_frozen(self) -> None:
        if not self.s.frozen:
            self.s.frozen = True
            self.s.frozen_since_ms = self.now_ms
        if self.s.standing is Standing.SOURCE and self.s.mode is Mode.MIRROR:
            self.s.mode = Mode.FROZEN

    def ask(self) -> None:
        """Read the register, unless a request is outstanding or the last one was just now."""
        s = self.s
        if s.asked or s.cas_asked or self.now_ms < s.ask_next_ms:
            return
        s.asked = s.next_token()
        s.asked_knowing = (s.meta.cluster_id, s.meta.seen_epoch)
        s.ask_next_ms = self.now_ms + s.settings.arbiter_retry_ms
        self.do(ReadRegister(s.asked))

    def ask_now(self) -> None:
        """Read the register for a decision: the pace of the watch must not hold it up."""
        self.s.ask_next_ms = self.now_ms
        self.ask()

    def ask_refused(self) -> None:
        """Read the register after a refusal: at once, for it has moved.

        Unless it has not moved since the last refusal. Then the arbiter contradicts itself, and is
        asked no faster than one that is silent: each attempt costs it a request and us an epoch.
        """
        s = self.s
        if s.refused:
            self.ask()
        else:
            self.ask_now()
        s.refused = True

    def cas(self, base: Register | None, record: Register) -> None:
        """Send one attempt. Its nonces are durable on every node it names before this is called.

        Own ones are: this step's `persist` goes first.
        """
        s = self.s
        ensure(not s.cas_asked, "one attempt at a time")
        if s.me in record.in_sync:
            ensure(record in s.meta.intended, "the nonce is durable before the CAS is sent")
        s.asked = 0  # a read that is still out shows the register as it was before
        s.cas_asked = s.next_token()
        s.sent = (base, record)
        if s.decision is not None:
            s.decision.base, s.decision.record = base, record
            self.enter(s.decision, Stage.CAS)
        self.do(Cas(s.cas_asked, expected=base, new=record))

    def take_register_requests(self) -> list[ReadRegister | Cas]:
        """Remove what this step asks of the register: without an arbiter, the pair answers it."""
        requests = [each for each in self._after if isinstance(each, ReadRegister | Cas)]
        self._after = [each for each in self._after if not isinstance(each, ReadRegister | Cas)]
        return requests

    def move(self, trigger: roles.Trigger, why: str) -> None:
        """Change the role along an edge of the table."""
        s = self.s
        before = s.role
        s.role = roles.next_role(before, trigger)
        if s.role is not before:
            s.since_ms = self.now_ms
        s.why = why
        self.do(
            RoleMoved(epoch=s.epoch, from_role=before, to_role=s.role, rule=trigger.value, why=why)
        )
