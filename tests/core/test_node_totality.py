"""A node with an arbiter takes any event in any state: it never raises, and never acts unlicensed.

The events come in arbitrary order, and the peer says whatever the types of the messages allow.
"""

from __future__ import annotations

import collections
import random

import attrs
import pytest

from mirrorha.core import effects as e
from mirrorha.core import events as v
from mirrorha.core import messages as m
from mirrorha.core import orders as o
from mirrorha.core.detector import PeerBeat
from mirrorha.core.messages import Standing
from mirrorha.core.meta import Meta, begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.register import Register
from mirrorha.core.settings import Settings
from mirrorha.core.words import Allow, Boot

ME, PEER = "lyon", "paris"
CONTRADICTORY = 0.1


class UnlicensedError(AssertionError):
    """Something that no sequence of events may bring about."""


class Nonsense:
    """Draws events, most of which fit the state, and judges what the node makes of them."""

    def __init__(self, seed, *, forces=0.0):
        self.forces = forces  # how many of the commands are an operator's force
        self.r = random.Random(seed)
        r = self.r
        self.settings = Settings(
            node=ME,
            peer=PEER,
            first=r.choice([ME, PEER]),
            volumes=("a", "b"),
            paths=("one",),
            freeze_max_ms=5000,
            wait_peer_ms=1000,
            failover=r.random() < 0.85,
            ack_durable=r.random() < 0.3,
            serve_after_power_loss=r.random() < 0.2,
        )
        meta = Meta(node=ME)
        self.records = []
        if r.random() < 0.7:
            rec = Register(
                cluster_id="c",
                epoch=r.randint(1, 3),
                primary=r.choice([ME, PEER]),
                nonces=((ME, "n0"), (PEER, "p0")),
            )
            if r.random() < 0.3:
                rec = Register(cluster_id="c", epoch=rec.epoch, primary=ME, nonces=((ME, "n0"),))
            meta = attrs.evolve(
                meta,
                cluster_id="c",
                held=rec,
                seen_epoch=rec.epoch,
                top_epoch=rec.epoch,
                lineage=("g0",),
                incarnation=1,
                boot_id="b",
                dirty=r.random() < 0.6,
                all_durable=r.random() < 0.3,
                inconsistent=r.random() < 0.1,
            )
            self.records.append(rec)
        meta, boot = begin_incarnation(meta, boot_id=r.choice(["b", "c"]))
        self.now = 0
        self.node = Node(self.settings, meta, boot, rng=random.Random(seed + 1), now_ms=0)
        self.durable = self.node.state.meta
        self.register = self.records[0] if self.records and r.random() < 0.8 else None
        self.alone_sent = {}
        self.alone_won = set()
        self.without_arbiter = False  # an operator said so
        self.cas = {}
        self.link = 0
        self.ops = {}
        self.opn = 0
        self.service = "off"
        self.hist = collections.deque(maxlen=25)
        self.orders = collections.Counter()
        self.tokens = [1, 2, 3]
        self.counts = collections.Counter()

    def nonce(self):
        return self.r.choice(
            ["x", "n0", "p0"] + [n for rec in self.records[-6:] for _, n in rec.nonces]
        )

    def record(self, mutate=True):
        r, s = self.r, self.node.state
        k = r.random()
        pool = [*self.records[-8:], *s.meta.intended, *([s.meta.held] if s.meta.held else [])]
        if s.decision and s.decision.record:
            pool.append(s.decision.record)
        if k < 0.6 and pool:
            rec = r.choice(pool)
            if mutate and r.random() < 0.25:
                rec = attrs.evolve(rec, epoch=max(1, rec.epoch + r.choice([-1, 1, 1, 2])))
            return rec
        members = r.choice([(ME,), (PEER,), (ME, PEER), (ME, PEER)])
        nonces = tuple(sorted((n, self.nonce() if mutate else "x") for n in members))
        return Register(
            cluster_id=r.choice(["c", "c", "c", "zz"]),
            epoch=max(1, s.meta.seen_epoch + r.choice([-2, -1, 0, 1, 1, 2, 3])),
            primary=r.choice(members),
            nonces=nonces,
        )

    def wire(self, bad=CONTRADICTORY):
        r = self.r
        rec = self.record()
        w = m.Record(
            cluster_id=rec.cluster_id, epoch=rec.epoch, primary=rec.primary, nonces=rec.nonces
        )
        if r.random() < bad:
            w = r.choice(
                [
                    m.Record(cluster_id="", epoch=0, primary="", nonces=()),
                    m.Record(cluster_id="c", epoch=-3, primary=ME, nonces=((ME, "x"),)),
                    m.Record(cluster_id="c", epoch=rec.epoch, primary="who", nonces=rec.nonces),
                    m.Record(
                        cluster_id="c",
                        epoch=rec.epoch + 1,
                        primary=ME,
                        nonces=((ME, "x"), (ME, "y"), (PEER, "z")),
                    ),
                    m.Record(
                        cluster_id="c",
                        epoch=rec.epoch + 1,
                        primary="who",
                        nonces=((ME, "x"), ("who", "y")),
                    ),
                    m.Record(
                        cluster_id="c",
                        epoch=2**63 - 1,
                        primary=ME,
                        nonces=((ME, "n0"), (PEER, "z")),
                    ),
                ]
            )
        return w

    def epoch(self):
        return max(0, self.node.state.epoch + self.r.choice([0, 0, 0, 0, 1, -1, 5]))

    def token(self):
        s = self.node.state
        r = self.r
        pool = [s.asked, s.cas_asked, s.service_token, s.tokens, 0, r.randint(0, s.tokens + 1)]
        if s.decision:
            pool += [s.decision.token] * 4 + [s.decision.session]
        return r.choice(pool)

    def inc(self):
        return (
            self.r.choice(
                [
                    1,
                    2,
                    2,
                    2,
                    2,
                    3,
                    3,
                    0,
                    -1,
                    self.node.state.paired or 2,
                    self.node.state.detector.incarnation or 2,
                ]
            )
            if self.r.random() < 0.3
            else (self.node.state.paired or 2)
        )

    def peer_state(self):
        r, s = self.r, self.node.state
        return m.PeerState(
            number=0,
            incarnation=self.inc(),
            standing=r.choice(
                [
                    Standing.STOPPED,
                    Standing.WAITING,
                    Standing.WAITING,
                    Standing.TARGET,
                    Standing.FOLLOWER,
                    Standing.FOLLOWER,
                    Standing.SOURCE,
                    Standing.SOURCE,
                ]
            ),
            epoch=self.epoch(),
            alone=r.random() < 0.3,
            paired=r.choice([s.meta.incarnation] * 6 + [0, 1]),
            held=r.choice([None, self.wire(), self.wire()]),
            nonces=frozenset(self.nonce() for _ in range(r.randint(0, 3))),
            unresolved=r.random() < 0.2,
            deciding=r.random() < 0.2,
            unclean=r.random() < 0.2,
            inconsistent=r.random() < 0.15,
            fresh=r.random() < 0.2,
            restarted=r.choice([b.value for b in Boot] + ["nonsense"]),
            lineage=r.choice([(), ("g0",), s.meta.lineage, (*s.meta.lineage, "q"), ("zz",)]),
            base=r.choice([None, "g0"]),
            has_files=r.random() < 0.5,
            accepts=r.random() < 0.8,
            promotable=r.random() < 0.8,
            ready=r.random() < 0.8,
            sick=r.random() < 0.1,
            paused=r.random() < 0.1,
            top_epoch=r.choice([0, s.meta.top_epoch, s.meta.top_epoch + 3, -5, 2**62])
            if r.random() < 0.2
            else 0,
            service="x",
            why="",
            role=r.choice(["WAIT", "SECOND", "?"]),
            frozen=r.random() < 0.3,
            initiated=r.random() < 0.1,
            can_restart=r.random() < 0.8,
            forced=r.random() < 0.2,
        )

    def message(self):
        r, s = self.r, self.node.state
        prepared = (
            s.decision.record.nonce_of(PEER)
            if s.decision and s.decision.record and r.random() < 0.8
            else self.nonce()
        )
        return r.choice(
            [
                self.peer_state,
                self.peer_state,
                self.peer_state,
                lambda: m.Resume(epoch=self.epoch(), generation="g", round=r.randint(-1, 5)),
                lambda: m.Prepare(
                    record=self.wire(),
                    freeze=r.random() < 0.5,
                    admit_lineage=r.choice([(), ("g0", "g1")]),
                    all_durable=r.random() < 0.5,
                ),
                lambda: m.Prepared(nonce=prepared or "x"),
                lambda: m.Prepared(nonce=prepared or "x"),
                lambda: m.Adopt(record=self.wire(), generation="g", round=r.randint(-1, 5)),
                lambda: m.Shadow(epoch=self.epoch(), generation="g", round=r.randint(0, 5)),
                lambda: m.BeTarget(
                    cluster_id=r.choice(["c", "c", "", "zz"]),
                    epoch=self.epoch(),
                    session=r.randint(0, 9),
                ),
                lambda: m.TargetReady(
                    session=s.decision.session if s.decision and r.random() < 0.8 else 3
                ),
                lambda: m.Farewell(incarnation=self.inc(), why=""),
                lambda: m.AskSwap(operation="z"),
            ]
        )()

    def report(self):
        r, s = self.r, self.node.state
        t = self.token()
        sess = s.decision.session if s.decision and r.random() < 0.8 else r.randint(0, 9)
        return r.choice(
            [lambda: o.Frozen(token=t)] * 3
            + [lambda: o.Synced(token=t)] * 3
            + [lambda: o.CutDone(token=t)] * 2
            + [
                lambda: o.Drained(token=t),
                lambda: o.NearlyEqual(session=sess),
                lambda: o.NearlyEqual(session=sess),
                o.StreamUp,
                o.StreamUp,
                o.StreamUp,
                o.StreamDown,
                lambda: (
                    o.Trouble(reason=r.choice(list(o.StopReason)), text="t")
                    if r.random() < 0.15
                    else o.StreamUp()
                ),
                lambda: o.Replayed(epoch=self.epoch()),
                lambda: o.Progress(
                    session=sess, done_bytes=0, total_bytes=0, files_left=0, sent_bytes=0
                ),
                lambda: o.Widened(session=sess, why=""),
                lambda: o.ResyncFailed(session=sess, text=""),
            ]
        )()

    def found(self):
        r = self.r
        k = r.random()
        if k < 0.6:
            return self.register if self.register else v.Gone.ABSENT
        if k < 0.75:
            return None
        if k < 0.8:
            return r.choice(list(v.Gone))
        return self.record(mutate=False)

    def event(self):
        r, s = self.r, self.node.state

        def cmd():
            self.opn += 1
            op = f"op{self.opn}"
            self.ops[op] = 0
            verb = r.choice(list(v.Verb)) if r.random() < 0.5 else v.Verb.START
            if self.forces and r.random() < self.forces:
                verb = v.Verb.FORCE_PRIMARY
            allowed = frozenset(each for each in Allow if r.random() < 0.5)
            self.without_arbiter |= (
                verb is v.Verb.FORCE_PRIMARY and Allow.WITHOUT_ARBITER in allowed
            )
            return v.Command(operation=op, verb=verb, allowed=allowed)

        def casdone():
            if not s.cas_asked:
                return v.Tick()
            token = s.cas_asked if r.random() < 0.9 else self.token()
            out = r.choice(list(v.CasOutcome))
            return v.CasDone(token=token, outcome=out)

        def helpful():
            if s.decision and s.decision.token and s.decision.missing:
                return v.VolumeReported(
                    r.choice(sorted(s.decision.missing)),
                    r.choice([o.Frozen, o.Synced, o.CutDone, o.Drained])(token=s.decision.token),
                )
            if s.decision and s.decision.stage.value == "fill":
                return r.choice(
                    [
                        v.Heard(m.TargetReady(session=s.decision.session)),
                        v.VolumeReported(r.choice("ab"), o.NearlyEqual(session=s.decision.session)),
                    ]
                )
            if s.asked:
                return v.RegisterRead(token=s.asked, found=self.found())
            return v.Tick()

        def linkopen():
            self.link += 1
            return v.LinkOpened(link=self.link, incarnation=self.inc())

        return r.choice(
            [v.Tick] * 2
            + [helpful] * 8
            + [
                lambda: v.BeatHeard(
                    path="one",
                    beat=PeerBeat(
                        incarnation=self.inc(),
                        sequence=r.randint(-1, 99),
                        echo_sequence=r.choice([None, -1, 4]),
                        loop_age_ms=r.choice([0, 0, 9999, -5]),
                        goodbye=r.random() < 0.05,
                    ),
                    heard_at_ms=self.now + r.choice([0, 0, -100, 50]),
                ),
                lambda: (
                    v.PortRefused(
                        incarnation=self.inc(), probed_since_ms=self.now - r.choice([0, 10])
                    )
                    if r.random() < 0.2
                    else v.Tick()
                ),
                linkopen if r.random() < 0.3 else casdone,
                lambda: (
                    v.LinkClosed(link=s.link if r.random() < 0.7 else 99)
                    if r.random() < 0.3
                    else v.Tick()
                ),
                linkopen if not s.link else casdone,
            ]
            + [lambda: v.Heard(self.message())] * 7
            + [
                lambda: v.RegisterRead(
                    token=s.asked or 10**6 if r.random() < 0.9 else self.token() or 10**6,
                    found=self.found(),
                )
            ]
            * 3
            + [casdone] * 3
            + [lambda: v.VolumeReported(r.choice("ab"), self.report())] * 4
            + [
                lambda: v.ServiceStarted(token=self.token()),
                lambda: v.ServiceStopped(token=s.service_token, clean=r.random() < 0.8),
                lambda: v.ServiceStopped(token=s.service_token),
                lambda: v.ServiceFailed(
                    token=self.token(),
                    text="f",
                    action=r.choice(["restart", "hand_over", "stop", "?"]),
                ),
                cmd if r.random() < 0.5 else helpful,
                lambda: (
                    v.VolumesInspected(
                        has_files=r.random() < 0.5,
                        ours=r.random() < 0.8,
                        problem=r.choice(["", "", "", "p"]),
                        anew=r.random() < 0.3,
                    )
                    if r.random() < 0.3 or not s.inspected
                    else v.Tick()
                ),
                lambda: v.PromotableChanged(promotable=r.random() < 0.8),
            ]
        )()

    def run(self, n):
        for _ in range(n):
            self.now += self.r.choice(
                [0, 0, 1, 5, 20, 100, 100, 600, 3000 if self.r.random() < 0.1 else 3]
            )
            ev = self.event()
            self.hist.append((self.now, ev))
            if isinstance(ev, v.VolumesInspected):
                pass
            before = self.node.state.meta
            cas_tok, sent = self.node.state.cas_asked, self.node.state.sent
            batch = self.node.step(ev, self.now)
            if batch.persist is not None:
                self.durable = batch.persist
            s = self.node.state
            if self.durable != s.meta:
                raise UnlicensedError("meta changed without persist")
            answered = isinstance(ev, v.CasDone) and bool(cas_tok) and ev.token == cas_tok
            if answered and sent and ev.outcome is v.CasOutcome.WON:
                self.register = sent[1]
                if sent[1].is_alone(ME):
                    self.alone_won.add(sent[1].epoch)
            if (
                isinstance(ev, v.RegisterRead)
                and isinstance(ev.found, Register)
                and ev.found.is_alone(ME)
                and ev.found in self.alone_sent.values()
            ):
                self.alone_won.add(ev.found.epoch)
            if (
                isinstance(ev, v.ServiceStopped)
                and self.service == "stopping"
                and ev.token == self.stoptok
            ):
                self.service = "off"
            h, b = s.meta.held, before.held
            if (h.epoch if h else 0) < (b.epoch if b else 0):
                raise UnlicensedError("held falls")
            if s.meta.seen_epoch < before.seen_epoch:
                raise UnlicensedError("seen falls")
            for ef in batch.after:
                self.counts[type(ef).__name__] += 1
                if isinstance(ef, e.Cas):
                    self.records.append(ef.new)
                    if ef.expected is not None:
                        self.records.append(ef.expected)
                    n = ef.new.nonce_of(ME)
                    if n is not None and n not in self.durable.nonces():
                        raise UnlicensedError("cas without nonce")
                    if ef.expected and ef.new.epoch <= ef.expected.epoch:
                        raise UnlicensedError("epoch not rising")
                    if ef.new.is_alone(ME):
                        self.alone_sent[ef.new.epoch] = ef.new
                    if ef.new.is_alone(ME) and not s.frozen and before.unconfirmed is None:
                        raise UnlicensedError("cas alone while not frozen")
                    ef.new.to_bytes()
                elif isinstance(ef, e.Give) and isinstance(ef.order, o.ServeAlone):
                    forced = s.meta.unconfirmed if self.without_arbiter else None
                    if forced is not None:
                        self.counts["forced"] += 1
                    by_force = forced is not None and forced.epoch == ef.order.epoch
                    if ef.order.epoch not in self.alone_won and not by_force:
                        raise UnlicensedError(
                            f"ServeAlone {ef.order.epoch} without won CAS {self.alone_won}"
                        )
                    if s.mode.value != "LOG":
                        raise UnlicensedError("ServeAlone but mode " + s.mode.value)
                elif isinstance(ef, e.StartService):
                    if self.service != "off":
                        raise UnlicensedError("start while " + self.service)
                    self.service = "on"
                    if s.standing is not Standing.SOURCE:
                        raise UnlicensedError("start while no source")
                elif isinstance(ef, e.StopService):
                    if self.service != "on":
                        raise UnlicensedError("stop while " + self.service)
                    self.service = "stopping"
                    self.stoptok = ef.token
                elif isinstance(ef, e.CommandDone):
                    if ef.operation not in self.ops:
                        raise UnlicensedError("unknown op answered " + ef.operation)
                    self.ops[ef.operation] += 1
                    if self.ops[ef.operation] > 1:
                        raise UnlicensedError("answered twice " + ef.operation)
                elif isinstance(ef, e.RoleMoved):
                    self.counts[ef.rule] += 1
                elif isinstance(ef, e.Note):
                    self.counts["note " + ef.rule] += 1
            if (
                s.standing is Standing.SOURCE
                and s.mode.value == "LOG"
                and not (s.meta.held and s.meta.held.is_alone(ME))
                and s.meta.unconfirmed is None
            ):
                raise UnlicensedError("LOG without held alone")
            if (
                s.service.value
                != {"off": "stopped", "on": None, "stopping": "stopping"}[self.service]
                and self.service != "on"
            ):
                raise UnlicensedError(f"service {s.service} {self.service}")


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_any_events_in_any_order(first: int) -> None:
    licensed = 0
    for seed in range(first, first + 20):
        nonsense = Nonsense(seed)
        try:
            nonsense.run(400)
        except Exception as error:
            last = "\n".join(str(one) for one in nonsense.hist)
            raise AssertionError(f"seed {seed}: {error!r} after\n{last}") from error
        licensed += len(nonsense.alone_won)
    assert licensed, "the sequences reach a node that serves alone"


def test_any_events_around_an_operators_force() -> None:
    forced = 0
    for seed in range(1_000, 1_060):
        nonsense = Nonsense(seed, forces=0.6)
        try:
            nonsense.run(400)
        except Exception as error:
            last = "\n".join(str(one) for one in nonsense.hist)
            raise AssertionError(f"seed {seed}: {error!r} after\n{last}") from error
        forced += nonsense.counts["forced"]
    assert forced, "the sequences reach a node that is forced without the arbiter"
