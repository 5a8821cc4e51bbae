"""Tells people, by commands and webhooks, of what they should know. Nothing waits for it."""

from __future__ import annotations

from mirrorha.notify.command import Command
from mirrorha.notify.notice import Notice, Notifier, Subject
from mirrorha.notify.outbox import NotifyRule, Outbox
from mirrorha.notify.webhook import Webhook

__all__ = ["Command", "Notice", "Notifier", "NotifyRule", "Outbox", "Subject", "Webhook"]
