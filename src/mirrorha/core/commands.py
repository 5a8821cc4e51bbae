"""What operators and the application ask for."""

from __future__ import annotations

from mirrorha.core import acting, forcing, serving, swap
from mirrorha.core.effects import CommandDone, DropLink
from mirrorha.core.events import Command, Verb, VolumesInspected
from mirrorha.core.messages import AskSwap, Standing
from mirrorha.core.roles import Trigger
from mirrorha.core.turn import Turn
from mirrorha.core.words import Boot


def on_command(turn: Turn, command: Command) -> None:
    """Begin, or refuse with the reason. Each command gets exactly one `CommandDone`."""
    handlers = {
        Verb.START: _start,
        Verb.STOP: _stop,
        Verb.RESTART: _restart,
        Verb.SWAP: _swap,
        Verb.PAUSE: _pause,
        Verb.RESUME: _resume,
        Verb.INIT: _init,
        Verb.ACCEPT: _accept,
        Verb.ACKNOWLEDGE: _acknowledge,
        Verb.FORCE_PRIMARY: forcing.be_primary,
        Verb.FORCE_SECONDARY: forcing.be_secondary,
    }
    handlers[command.verb](turn, command)


def on_inspected(turn: Turn, event: VolumesInspected) -> None:
    s = turn.s
    s.inspected = True
    s.has_files = event.has_files
    s.ours = event.ours
    s.problem = event.problem
    if event.lost:
        acting.remember_failure(turn)
    if event.put_back:
        acting.forget_admission(turn)
    if event.anew and s.sick:
        s.sick = ""
        if s.standing is Standing.WAITING:
            # The one that gave up has said goodbye for ever; its volumes ended like a process.
            _begin_anew(turn, Boot.PROCESS_CRASH)
            s.why = "its volumes were opened anew"


def _done(turn: Turn, command: Command, text: str) -> None:
    turn.do(CommandDone(operation=command.operation, done=True, text=text))


def _refuse(turn: Turn, command: Command, text: str) -> None:
    turn.do(CommandDone(operation=command.operation, done=False, text=text))


def _start(turn: Turn, command: Command) -> None:
    """A stopped node starts as a new incarnation: the old one has said goodbye for ever."""
    s = turn.s
    if s.standing is not Standing.STOPPED:
        _refuse(turn, command, f"this node is {s.role.value} already")
        return
    if s.role.value == "STOP" and s.told_number:
        _begin_anew(turn, Boot.CLEAN)
    s.told_number += 1
    s.standing = Standing.WAITING
    s.frozen = True
    s.unfilled = ""
    s.sick = ""  # the directories are opened anew; `unclean` tells of what may be gone
    serving.forget(s)
    s.mine.clear()
    s.since_ms = turn.now_ms
    s.unlinked_ms = turn.now_ms
    turn.move(Trigger.STARTED, "started")
    _done(turn, command, "started")


def _begin_anew(turn: Turn, boot: Boot) -> None:
    """Go on as a new incarnation, as if the process had been started again."""
    s = turn.s
    turn.change(incarnation=s.meta.incarnation + 1)
    s.boot = boot
    s.mine.clear()
    s.since_ms = turn.now_ms
    s.unlinked_ms = turn.now_ms
    if s.link:
        turn.do(DropLink(s.link, "a new incarnation"))


def _stop(turn: Turn, command: Command) -> None:
    s = turn.s
    if s.standing is Standing.STOPPED:
        _done(turn, command, "this node is stopped already")
        return
    if s.is_leaving or s.stop_asked is not None or s.pair.leave_after is not None:
        _refuse(turn, command, "this node is being stopped already")
        return
    s.stop_asked = (command.operation, "stopped by an operator")


def _restart(turn: Turn, command: Command) -> None:
    s = turn.s
    if s.standing is not Standing.SOURCE:
        text = f"the service does not run here: this node is {s.role.value}"
        if serving.failures(s, turn.now_ms):
            serving.forget(s)
            _done(turn, command, f"{text}; that it failed here is forgotten")
        else:
            _refuse(turn, command, text)
        return
    serving.restart(turn)
    _done(turn, command, "the service is being restarted in place")


def _swap(turn: Turn, command: Command) -> None:
    s, peer = turn.s, turn.s.peer
    second = s.standing is Standing.FOLLOWER and peer is not None
    if second and peer is not None and peer.standing is Standing.SOURCE:
        turn.send(AskSwap(operation=command.operation))
        _done(turn, command, f"{s.other}, the PRIM, was asked to hand over")
        return
    why_not = swap.obstacle(turn)
    if why_not:
        _refuse(turn, command, why_not)
        return
    swap.begin(turn, operation=command.operation, why="swap asked by an operator")


def on_ask_swap(turn: Turn, message: AskSwap) -> None:
    """The SECOND's operator asked. Refused here is seen there: the roles stay."""
    why_not = swap.obstacle(turn)
    if why_not:
        turn.note("swap-refused", why_not)
        return
    swap.begin(turn, operation="", why="swap asked by an operator on the other node")


def _pause(turn: Turn, command: Command) -> None:
    turn.change(paused=True)
    turn.note("paused", "service actions and takeover are suspended until 'mirrorha resume'")
    _done(turn, command, "paused")


def _resume(turn: Turn, command: Command) -> None:
    turn.change(paused=False)
    turn.note("resumed", "service actions and takeover are on again")
    serving.on_resumed(turn)
    _done(turn, command, "resumed")


def _init(turn: Turn, command: Command) -> None:
    s = turn.s
    if s.meta.cluster_id is not None:
        _refuse(turn, command, "this node belongs to a cluster already")
        return
    s.initiated = True
    _done(turn, command, f"the cluster begins with the directories of {s.me}")


def _accept(turn: Turn, command: Command) -> None:
    """Give up this node's directories: the peer may fill them, whatever they hold."""
    s = turn.s
    if s.standing is not Standing.WAITING or s.decision is not None:
        _refuse(turn, command, f"only a waiting node can be filled; this one is {s.role.value}")
        return
    if s.settings.arbiter and s.meta.held is not None and s.meta.held.is_alone(s.me):
        text = f"only {s.me} is up to date, by the register: nobody could fill it"
        _refuse(turn, command, f"{text}. It serves as soon as the arbiter answers")
        return
    s.accepted = True
    if s.meta.lineage:
        epochs = (*s.meta.forced, s.meta.top_epoch)
        turn.change(
            lineage=(), base=None, inconsistent=True, given_up=s.meta.lineage, forced=epochs
        )
        turn.note("data-given-up", f"an operator gave up what {s.me} holds: it is filled anew")
        if not s.settings.arbiter:
            # The peer may rest on that: a split is settled, or it goes on as the only one.
            turn.change(outdated=True, stopped_alone=False, disputed=False)
    _done(turn, command, f"{s.me} will be filled by {s.other}")


def _acknowledge(turn: Turn, command: Command) -> None:
    """A person has seen what this node kept of its side of a split."""
    s = turn.s
    if not s.meta.rescued:
        theirs = f"; {s.other} has: give the command there" if s.peer_rescued else ""
        _refuse(turn, command, f"{s.me} has kept nothing of a split{theirs}")
        return
    directories = ", ".join(note.directory for note in s.meta.rescued)
    turn.change(rescued=())
    turn.note("rescue-acknowledged", f"what is in {directories} was seen by a person; it stays")
    _done(turn, command, f"acknowledged: {directories}; remove it when nobody needs it any more")
