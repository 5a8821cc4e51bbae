"""One step: a scene is brought to life, something happens, what follows settles."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, final

from mirrorha.core import effects as e
from mirrorha.core import events as v
from mirrorha.core.messages import PeerState
from mirrorha.core.meta import begin_incarnation
from mirrorha.core.node import Node
from mirrorha.core.register import Register
from mirrorha.testing.explore.scene import (
    NAMES,
    Scene,
    Suspicion,
    other,
    settings_of,
)
from mirrorha.testing.sim.model_volume import Message, ModelVolume
from mirrorha.testing.sim.world import Violation


@final
class Stage:
    """Brings a scene to life, does one thing to it, lets everything settle that is no choice.

    Volumes, persists and the service answer at once; messages and the arbiter do not.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._soon: deque[Callable[[], None]] = deque()
        self._inbox: deque[tuple[str, v.AnyEvent]] = deque()
        self.volumes = {name: self._volume(name) for name, site in scene.sites.items() if site.node}

    # The part of a `World` that a model volume needs: what it asks for later happens next.

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        self._soon.append(action)

    def between(self, low: int, high: int) -> int:
        return low

    def _volume(self, name: str) -> ModelVolume:
        site = self.scene.sites[name]
        world: Any = self
        volume = ModelVolume(
            world,
            "a",
            site.platter,
            send=lambda message: self._stream_send(name, message),
            report=lambda report: self.give(name, v.VolumeReported("a", report)),
            acked=lambda value, epoch, both: self._acked(name, value, epoch, both=both),
            on_synced=lambda values: None,
        )
        volume.__dict__.update(site.volume)
        return volume

    def save(self) -> Scene:
        plain = ("mode", "epoch", "replied", "waiting", "session", "round", "_begin", "_drain")
        for name, volume in self.volumes.items():
            fields = volume.__dict__
            kept = {key: fields[key] for key in plain if key in fields}
            self.scene.sites[name].volume = kept
        return self.scene

    def _stream_send(self, name: str, message: Message) -> None:
        if self.scene.link:
            self.scene.stream[name].append(message)

    def _acked(self, name: str, value: int, epoch: int, *, both: bool) -> None:
        scene = self.scene
        before = scene.primaries.setdefault(epoch, name)
        register = scene.register
        if before != name:
            raise Violation(f"I3 {before} and {name} both acknowledged in epoch {epoch}")
        if not both and (register is None or not register.is_alone(name)):
            raise Violation(f"I2 {name} acknowledged alone against the register")
        scene.acked.append(value)
        if not both:
            scene.alone[value] = name

    # ---- the loop ----

    def give(self, name: str, event: v.AnyEvent) -> None:
        self._inbox.append((name, event))

    def settle(self) -> None:
        """Until nothing is left that happens by itself."""
        for _ in range(2_000):
            if self._inbox:
                name, event = self._inbox.popleft()
                self._step(name, event)
            elif self._soon:
                self._soon.popleft()()
            else:
                return
        raise Violation("I10 something spins")

    def _step(self, name: str, event: v.AnyEvent) -> None:
        site = self.scene.sites[name]
        if site.node is None:
            return
        batch = site.node.step(event, self.scene.now_ms)
        if batch.persist is not None:
            site.meta = batch.persist
        for effect in batch.after:
            self._perform(name, effect)

    def _perform(self, name: str, effect: e.AnyEffect) -> None:
        scene = self.scene
        match effect:
            case e.SendPeer():
                self._control_send(name, effect)
            case e.ReadRegister():
                scene.reads[name] = effect.token
            case e.Cas():
                scene.attempts[name] = (effect.token, effect.expected, effect.new)
            case e.Give():
                self.volumes[name].order(effect.order)
            case e.StartService():
                self.give(name, v.ServiceStarted(token=effect.token))
            case e.StopService():
                self.give(name, v.ServiceStopped(token=effect.token))
            case _:
                pass

    def _control_send(self, name: str, effect: e.SendPeer) -> None:
        queue = self.scene.control[name]
        if effect.link != self.scene.link:
            return
        # Two states in a row: only the second matters, for both would be taken in at once.
        if queue and isinstance(effect.message, PeerState) and isinstance(queue[-1], PeerState):
            queue.pop()
        queue.append(effect.message)

    # ---- what can happen ----

    def start(self, name: str) -> None:
        site = self.scene.sites[name]
        site.meta, boot = begin_incarnation(site.meta, boot_id=f"boot-{site.boot}")
        dice: Any = self.scene.dice
        node = Node(settings_of(name), site.meta, boot, rng=dice, now_ms=self.scene.now_ms)
        suspicion: Any = Suspicion()
        node.state.detector = suspicion
        site.node = node
        site.volume = {}
        self.volumes[name] = self._volume(name)
        files = bool(site.platter.cache)
        self.give(name, v.VolumesInspected(has_files=files, ours=True))
        self.give(name, v.Command(operation="", verb=v.Verb.START))

    def crash(self, name: str, *, power: bool) -> None:
        site = self.scene.sites[name]
        self.volumes.pop(name).dead = True
        site.node = None
        site.volume = {}
        if power:
            site.boot += 1
            gone = site.platter.cache[site.platter.synced :]
            del site.platter.cache[site.platter.synced :]
            # Acknowledged alone and never synced: void once that node's power is lost (I1).
            void = [value for value in gone if self.scene.alone.get(value) == name]
            self.scene.acked = [value for value in self.scene.acked if value not in void]
        self.scene.reads.pop(name, None)
        attempt = self.scene.attempts.pop(name, None)
        if attempt is not None:
            self.scene.late.append(attempt[1:])
        self.disconnect()

    def connect(self) -> None:
        scene = self.scene
        scene.links += 1
        scene.link = scene.links
        for name in NAMES:
            peer = scene.sites[other(name)].node
            if peer is not None:
                incarnation = peer.state.meta.incarnation
                self.give(name, v.LinkOpened(link=scene.link, incarnation=incarnation))
        for volume in self.volumes.values():
            volume.link_up()

    def disconnect(self) -> None:
        scene = self.scene
        link, scene.link = scene.link, 0
        for name in NAMES:
            scene.control[name].clear()
            scene.stream[name].clear()
            if link:
                self.give(name, v.LinkClosed(link=link))
        if link:
            for volume in self.volumes.values():
                volume.link_down()

    def land(self, base: Register | None, record: Register) -> bool:
        if self.scene.register != base:
            return False
        for member, nonce in record.nonces:
            if nonce not in self.scene.sites[member].meta.nonces():
                raise Violation(f"5.0 {record.epoch} landed without the nonce of {member} on disk")
        self.scene.register = record
        return True
