"""All commands, each loaded when it is named."""

from __future__ import annotations

import importlib
from typing import Final, final

import click

import mirrorha as package
from mirrorha.cli.exits import EXIT_CODES

# In the order in which a person meets them; each with its module and its name there.
COMMANDS: Final = {
    "run": "mirrorha.cli.running:run",
    "status": "mirrorha.cli.looking:status",
    "start": "mirrorha.cli.managing:start",
    "stop": "mirrorha.cli.managing:stop",
    "restart": "mirrorha.cli.managing:restart",
    "swap": "mirrorha.cli.managing:swap",
    "pause": "mirrorha.cli.managing:pause",
    "resume": "mirrorha.cli.managing:resume",
    "init": "mirrorha.cli.managing:init",
    "resync": "mirrorha.cli.managing:resync",
    "acknowledge": "mirrorha.cli.managing:acknowledge",
    "verify": "mirrorha.cli.comparing:verify",
    "accept-missing": "mirrorha.cli.accepting:accept_missing",
    "force-primary": "mirrorha.cli.forcing:force_primary",
    "force-secondary": "mirrorha.cli.forcing:force_secondary",
    "wait": "mirrorha.cli.looking:wait",
    "is-primary": "mirrorha.cli.looking:is_primary",
    "events": "mirrorha.cli.looking:events",
    "history": "mirrorha.cli.looking:history",
    "health": "mirrorha.cli.looking:health",
    "keys": "mirrorha.cli.keys_commands:keys",
    "witness": "mirrorha.cli.witness:witness",
    "config": "mirrorha.cli.config_commands:config",
    "completion": "mirrorha.cli.completing:completion",
    "demo": "mirrorha.cli.demo_command:demo",
}


@final
class _Lazy(click.Group):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = COMMANDS.get(cmd_name)
        if home is None:
            return None
        module, _, name = home.partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As every group does; a name that is none gets the nearest that is one."""
        from difflib import get_close_matches  # takes longer than asking a node

        close = get_close_matches(args[0], COMMANDS, n=1)
        if close and args[0] not in COMMANDS:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{close[0]}'?")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, epilog=EXIT_CODES)
@click.version_option(package.__version__, prog_name="mirrorha")
def mirrorha() -> None:
    """Keep an application available on two servers: mirrored directories, automatic failover.

    On each server `mirrorha run` is the node; every other command asks the node of this machine,
    as root or as the user that runs it. All take -c FILE and --node NAME, or the environment's
    MIRRORHA_CONFIG and MIRRORHA_NODE.

    \b
    A first cluster:
      mirrorha config check -c orders.toml
      mirrorha keys init -c orders.toml --out ./keys
      mirrorha witness --state-dir DIR --listen HOST:PORT --keys FILE    (on a third machine)
      mirrorha run -c orders.toml --node paris                  (on each server)
      mirrorha status -c orders.toml --node paris
    """
