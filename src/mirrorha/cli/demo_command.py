"""`mirrorha demo`."""

from __future__ import annotations

import importlib

from mirrorha.cli.command import Asked, command
from mirrorha.cli.exits import FAILED, CommandError


@command
def demo(asked: Asked) -> None:
    """Show a cluster at work on this machine.

    Two nodes, a crash, a takeover, a return. It needs no configuration, no root and no network, and
    leaves nothing behind.

    \b
    Example:
      mirrorha demo
    """
    try:
        module = importlib.import_module("mirrorha.cli.demo")
    except ModuleNotFoundError as error:
        raise CommandError(FAILED, "this version has no demonstration") from error
    code: int = module.run_demo(as_json=asked.as_json, color=asked.color)
    if code:
        raise CommandError(code, "the demonstration failed; what it printed says where")
