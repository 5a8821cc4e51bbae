"""The service under care: started once this node may serve, stopped once it may not."""

from __future__ import annotations

from mirrorha.core import swap
from mirrorha.core.effects import StartService, StopService
from mirrorha.core.events import ServiceFailed, ServiceStarted, ServiceStopped
from mirrorha.core.messages import Standing
from mirrorha.core.state import ServiceState, State
from mirrorha.core.turn import Turn
from mirrorha.core.words import Role


def is_wanted(turn: Turn) -> bool:
    """Whether the service ought to run on this node now."""
    s = turn.s
    if s.standing is not Standing.SOURCE or s.hold_service or s.gave_up:
        return False
    if s.service is ServiceState.ON:
        return True  # frozen or not: it goes on until authority is known to be lost
    return not s.frozen and turn.now_ms >= s.serve_after_ms


def steer(turn: Turn) -> None:
    """Bring the service nearer to what is wanted. Never two phases at once (I9)."""
    s = turn.s
    wanted = is_wanted(turn)
    if wanted and s.service is ServiceState.OFF and not s.meta.paused:
        s.service = ServiceState.STARTING
        s.service_token = s.next_token()
        turn.do(
            StartService(
                token=s.service_token,
                epoch=s.epoch,
                from_role=Role.WAIT,
                to_role=s.role,
                why=s.why,
            )
        )
    elif not wanted and s.service in (ServiceState.ON, ServiceState.STARTING):
        _stop(turn)


def _stop(turn: Turn) -> None:
    s = turn.s
    if s.service is ServiceState.STARTING and s.standing is Standing.SOURCE and s.frozen:
        return  # a start that began goes on while frozen; what it writes waits
    s.service = ServiceState.STOPPING
    s.service_token = s.next_token()
    turn.do(
        StopService(
            token=s.service_token,
            epoch=s.epoch,
            from_role=s.role,
            to_role=s.role,
            why=s.gave_up or s.why,
        )
    )


def on_started(turn: Turn, event: ServiceStarted) -> None:
    s = turn.s
    if event.token != s.service_token or s.service is not ServiceState.STARTING:
        s.stale += 1
        return
    s.service = ServiceState.ON
    turn.note("service-started", f"the service runs, epoch {s.epoch}")


def on_stopped(turn: Turn, event: ServiceStopped) -> None:
    s = turn.s
    if event.token != s.service_token or s.service is not ServiceState.STOPPING:
        s.stale += 1
        return
    s.service = ServiceState.OFF
    if not event.clean:
        turn.note("service-stop-killed", "the stop missed its deadline and was ended", alarm=True)


def on_failed(turn: Turn, event: ServiceFailed) -> None:
    """A start failed, the service ended, or a check that has an action failed."""
    s = turn.s
    running = s.service in (ServiceState.ON, ServiceState.STARTING)
    if event.token != s.service_token or not running:
        s.stale += 1
        return
    turn.note("service-failed", event.text, alarm=True)
    if s.meta.paused:
        s.failed_paused = event
    else:
        _act(turn, event)


def on_resumed(turn: Turn) -> None:
    """What failed during the maintenance is acted on now, unless it was restarted since."""
    event, turn.s.failed_paused = turn.s.failed_paused, None
    running = turn.s.service in (ServiceState.ON, ServiceState.STARTING)
    if event is not None and event.token == turn.s.service_token and running:
        _act(turn, event)


def _act(turn: Turn, event: ServiceFailed) -> None:
    s = turn.s
    # Only whether there are more than the limit matters: older ones are not kept.
    newest = -1 - s.settings.restart_limit
    s.failures_ms = [*failures(s, turn.now_ms), turn.now_ms][newest:]
    if event.action == "stop":
        s.gave_up = event.text
    elif event.action == "hand_over" or not is_within_limit(turn):
        _hand_over(turn, event.text)
    else:
        _stop(turn)


def failures(s: State, now_ms: int) -> list[int]:
    """When the service failed on this node, of late: one more than the limit at most."""
    since_ms = now_ms - s.settings.restart_window_ms
    return [at_ms for at_ms in s.failures_ms if at_ms > since_ms]


def is_within_limit(turn: Turn) -> bool:
    """Whether every failure of late may be met with a restart on this node.

    One that is handed over counts too: otherwise two nodes would hand it to and fro for ever.
    """
    return len(failures(turn.s, turn.now_ms)) <= turn.s.settings.restart_limit


def _hand_over(turn: Turn, text: str) -> None:
    """To an up-to-date peer that can still start it; with none, a restart in place, or the end."""
    s, peer = turn.s, turn.s.peer
    able = peer is not None and peer.can_restart
    if able and s.settings.failover and not swap.obstacle(turn):
        swap.begin(turn, operation="", why=f"hand-over: {text}")
    elif is_within_limit(turn):
        _stop(turn)
    else:
        s.gave_up = f"the restart limit is used up: {text}"


def restart(turn: Turn) -> None:
    """An operator's restart in place: also forgets the failures counted so far."""
    s = turn.s
    forget(s)
    if s.service is ServiceState.ON:
        _stop(turn)


def forget(s: State) -> None:
    """Whatever failed so far, an operator has seen to it."""
    s.failures_ms.clear()
    s.failed_paused = None
    s.gave_up = ""
