"""What the demonstration shows while it runs: nodes, roles, throughput, the resync."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mirrorha.cli.demo.process import Speaker

STYLES: Final = {"green": "bold green", "orange": "bold yellow", "red": "bold red", "grey": "dim"}
MIB: Final = 1024 * 1024


@final
class Picture:
    """A live picture on a terminal; elsewhere one line a step, and nothing that moves."""

    def __init__(self, console: Console, nodes: dict[str, Speaker], *, quiet: bool) -> None:
        self._console, self._nodes, self._quiet = console, nodes, quiet
        self._live: Live | None = None
        self._steps: list[str] = []
        self._rate = 0.0
        self._acknowledged = 0

    def __enter__(self) -> Picture:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, text: str) -> None:
        self._steps.append(text)
        if self._live is None and not self._quiet:
            self._console.print(f"• {text}", highlight=False)
        self.draw()

    def measure(self, acknowledged: int, per_s: float) -> None:
        self._acknowledged, self._rate = acknowledged, per_s
        self.draw()

    def draw(self) -> None:
        if self._live is not None:
            self._live.update(self._render(), refresh=True)

    def _render(self) -> Group:
        row = Table.grid(expand=True)
        for _ in self._nodes:
            row.add_column(ratio=1)
        row.add_row(*(self._node(node) for node in self._nodes.values()))
        line = Text(
            f"  {self._acknowledged:,} transactions acknowledged, {self._rate:,.0f} a second"
        )
        steps = Text("\n".join(f"  • {text}" for text in self._steps[-6:]), style="dim")
        return Group(row, line, steps)

    def _node(self, node: Speaker) -> Panel:
        status: dict[str, Any] = node.said.get("status") or {}
        if not node.is_running:
            return Panel(Text("killed", style="bold red"), title=node.name, height=6)
        role, colour = status.get("role", "…"), status.get("colour", "grey")
        head = Text.assemble(
            (f"{role}", STYLES.get(colour, "")),
            f" ({colour})  epoch {status.get('epoch', 0)}  data {status.get('data', '?')}",
        )
        body: list[Any] = [head, Text(str(status.get("why", "")), style="dim", overflow="ellipsis")]
        for volume in status.get("volumes", []):
            resync = volume.get("resync")
            if resync:
                total = max(1, resync["total_bytes"])
                body.append(ProgressBar(total=total, completed=resync["done_bytes"]))
                body.append(
                    Text(f"resync {resync['done_bytes'] / MIB:.1f} of {total / MIB:.1f} MiB")
                )
        return Panel(Group(*body), title=node.name, height=6)
