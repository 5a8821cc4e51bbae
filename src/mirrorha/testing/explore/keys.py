"""When two states are the same: their futures are equal."""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from mirrorha.core.messages import AnyMessage
from mirrorha.core.node import Node
from mirrorha.testing.explore.choices import suspects
from mirrorha.testing.explore.scene import (
    NAMES,
    Scene,
)
from mirrorha.testing.sim.model_volume import Message

_NONCE: Final = re.compile(r"\b[0-9a-f]{16}\b")
_FORGET: Final = ("tokens", "stale", "told", "told_number", "why", "progress", "detector", "rng")
_TOKENS: Final = ("asked", "cas_asked", "service_token")  # only whether one is out matters
_ROUNDS: Final = ("round", "session")


def key_of(scene: Scene) -> bytes:
    """Equal for states with equal futures: draws, rounds and sessions are renamed by first use."""
    attempts = sorted((name, sent[1:]) for name, sent in scene.attempts.items())
    parts: list[str] = [repr(attrs.astuple(scene.budget)), repr(scene.register), repr(scene.now_ms)]
    parts.append(repr([[_plain(message) for message in scene.control[name]] for name in NAMES]))
    parts.append(repr([[_numbered(message) for message in scene.stream[name]] for name in NAMES]))
    parts.append(
        repr(
            (
                scene.late,
                sorted(scene.acked),
                sorted(scene.alone.items()),
                sorted(scene.reads),
                attempts,
            )
        )
    )
    parts.append(repr(bool(scene.link)))
    for name in NAMES:
        site = scene.sites[name]
        volume: dict[str, Any] = {
            key: _opaque(value) if key in _ROUNDS else value for key, value in site.volume.items()
        }
        if volume.get("_begin"):
            volume["_begin"] = _numbered(("begin", *volume["_begin"]))
        parts.append(repr((site.meta, site.platter, sorted(volume.items()), site.boot)))
        if site.node is not None:
            parts.append(repr(_fields(site.node)))
            parts.append(repr(suspects(scene, name)))
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return names.setdefault(match.group(), f"n{len(names)}")

    return _NONCE.sub(rename, "|".join(parts)).encode()


def _opaque(number: int) -> str:
    return f"{number:016x}" if number else ""


def _plain(message: AnyMessage) -> tuple[Any, ...]:
    fields = type(message).__struct_fields__
    values = ((field, getattr(message, field)) for field in fields if field != "why")
    return (
        type(message).__name__,
        *((_opaque(value) if field in _ROUNDS else value) for field, value in values),
    )


def _numbered(message: Message) -> tuple[Any, ...]:
    """A stream message whose round, session or token is renamed."""
    where = {"begin": (2,), "at": (2,), "copy": (1, 2), "copied": (1, 2)}.get(str(message[0]), ())
    return tuple(
        _opaque(value) if index in where and isinstance(value, int) else value
        for index, value in enumerate(message)
    )


def _fields(node: Node) -> list[tuple[str, Any]]:
    state = node.state
    fields: list[tuple[str, Any]] = []
    for field in sorted(state.__slots__):
        if field in _FORGET or field.startswith("__"):
            continue
        value = getattr(state, field)
        if field in _TOKENS:
            value = bool(value)
        elif field in _ROUNDS:
            value = _opaque(value)
        elif field == "decision" and value is not None:
            value = attrs.evolve(value, token=bool(value.token), session=bool(value.session))
        elif field == "peer" and value is not None:
            value = _plain(value)
        elif field in ("sent", "link"):
            value = bool(value)
        fields.append((field, value))
    return fields
