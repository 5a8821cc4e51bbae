"""`role-diagram` and `role-table`, drawn from `mirrorha.core.roles.ROLE_TABLE` by each build."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any, Final

from docutils import nodes
from docutils.parsers.rst import Directive

from mirrorha.core.roles import ROLE_TABLE, Trigger
from mirrorha.core.words import Role

if TYPE_CHECKING:
    from sphinx.application import Sphinx

WIDTH: Final = 860
HEIGHT: Final = 560
BOX_WIDTH: Final = 128
BOX_HEIGHT: Final = 46
LINE: Final = 15
#: How far an edge bends out of the straight line, so that an edge and its reverse lie apart.
BEND: Final = 34.0

#: Where on its way an edge has its label, if not in the middle, where another one has its own.
LABEL_AT: Final = {(Role.PRIM, Role.WAIT): 0.27}

PLACES: Final = {
    Role.STOP: (430, 50),
    Role.WAIT: (430, 190),
    Role.ALONE: (130, 320),
    Role.SECOND: (730, 320),
    Role.PRIM: (430, 500),
}
FILLS: Final = {
    Role.STOP: "#e4e4e7",
    Role.WAIT: "#fde68a",
    Role.ALONE: "#fdba74",
    Role.PRIM: "#86efac",
    Role.SECOND: "#bbf7d0",
}
WORDS: Final = {
    Role.STOP: "stopped",
    Role.WAIT: "does nothing yet",
    Role.ALONE: "serves, unprotected",
    Role.PRIM: "serves, mirrored",
    Role.SECOND: "stands by",
}
TRIGGERS: Final = {
    Trigger.STARTED: "the process started, or an operator said `start`",
    Trigger.STOPPED: "an operator said `stop`, or the restart limit is reached",
    Trigger.WON_ALONE: "this incarnation won a compare-and-swap that names it alone",
    Trigger.FORCED: "the same because an operator said so, with a compare-and-swap or without one",
    Trigger.JOINED_PEER: "a compare-and-swap that names both was won: the peer was admitted",
    Trigger.ADMITTED: "the peer admitted this node",
    Trigger.SWAPPED_OUT: "a swap gave the service to the peer",
    Trigger.SWAPPED_IN: "a swap gave the service to this node",
    Trigger.READ_PRIMARY: "the register says: this node is the primary, and both are in sync",
    Trigger.READ_SECOND: "the register says: the peer is the primary, and both are in sync",
    Trigger.STEPPED_DOWN: "the register, the disk or the freeze's deadline says so",
}


def edges() -> dict[tuple[Role, Role], list[Trigger]]:
    """Every pair of different roles that the table connects, with what leads from one to the other.

    STOPPED leads from everywhere to STOP and is drawn once, in the caption.
    """
    found: dict[tuple[Role, Role], list[Trigger]] = {}
    for (role, trigger), becomes in ROLE_TABLE.items():
        if role is not becomes and trigger is not Trigger.STOPPED:
            found.setdefault((role, becomes), []).append(trigger)
    return found


def svg() -> str:
    """The diagram. Each edge is a `<g class="edge">` with what it means in data-attributes."""
    parts = [
        f'<svg class="role-diagram" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%;max-width:{WIDTH}px;height:auto" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>Roles and what changes them</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
    ]
    drawn = edges()
    parts += [_path(*pair) for pair in drawn]
    parts += [_label(*pair, triggers) for pair, triggers in drawn.items()]
    parts += [_box(role) for role in Role]
    return "\n".join([*parts, "</svg>"])


def _control(source: Role, target: Role) -> tuple[float, float]:
    """The control point of the edge's curve: to the right of the way, as one drives."""
    (x1, y1), (x2, y2) = PLACES[source], PLACES[target]
    length = math.hypot(x2 - x1, y2 - y1)
    return (
        (x1 + x2) / 2 - (y2 - y1) / length * BEND * 2,
        (y1 + y2) / 2 + (x2 - x1) / length * BEND * 2,
    )


def _border(role: Role, towards: tuple[float, float]) -> tuple[float, float]:
    """Where a line from the middle of the role's box to `towards` leaves the box."""
    x, y = PLACES[role]
    dx, dy = towards[0] - x, towards[1] - y
    scale = min(
        BOX_WIDTH / 2 / abs(dx) if dx else math.inf, BOX_HEIGHT / 2 / abs(dy) if dy else math.inf
    )
    return x + dx * scale, y + dy * scale


def _path(source: Role, target: Role) -> str:
    control = _control(source, target)
    (x1, y1), (x2, y2) = _border(source, control), _border(target, control)
    angle = math.degrees(math.atan2(y2 - control[1], x2 - control[0]))
    return (
        f'<path d="M{x1:.1f} {y1:.1f} Q{control[0]:.1f} {control[1]:.1f} {x2:.1f} {y2:.1f}" '
        'fill="none" stroke="#3f3f46" stroke-width="1.4"/>'
        f'<path d="M0 0 L-9 -4 L-9 4 z" fill="#3f3f46" '
        f'transform="translate({x2:.1f} {y2:.1f}) rotate({angle:.1f})"/>'
    )


def _label(source: Role, target: Role, triggers: list[Trigger]) -> str:
    control = _control(source, target)
    (x1, y1), (x2, y2) = PLACES[source], PLACES[target]
    at = LABEL_AT.get((source, target), 0.5)
    before, between, after = (1 - at) ** 2, 2 * at * (1 - at), at**2
    x = before * x1 + between * control[0] + after * x2
    y = before * y1 + between * control[1] + after * y2
    words = [trigger.value for trigger in triggers]
    first_y = y - (len(words) - 1) * LINE / 2 + 4
    lines = "".join(
        f'<text x="{x:.1f}" y="{first_y + number * LINE:.1f}" text-anchor="middle" '
        f'fill="#18181b" stroke="#ffffff" stroke-width="5" paint-order="stroke">'
        f"{html.escape(word)}</text>"
        for number, word in enumerate(words)
    )
    return (
        f'<g class="edge" data-from="{source.value}" data-to="{target.value}" '
        f'data-triggers="{" ".join(words)}">{lines}</g>'
    )


def _box(role: Role) -> str:
    x, y = PLACES[role]
    return (
        f'<g class="role" data-role="{role.value}">'
        f'<rect x="{x - BOX_WIDTH / 2}" y="{y - BOX_HEIGHT / 2}" width="{BOX_WIDTH}" '
        f'height="{BOX_HEIGHT}" rx="8" fill="{FILLS[role]}" stroke="#3f3f46"/>'
        f'<text x="{x}" y="{y - 3}" text-anchor="middle" font-size="15" font-weight="bold" '
        f'fill="#18181b">{role.value}</text>'
        f'<text x="{x}" y="{y + 14}" text-anchor="middle" font-size="11" fill="#18181b">'
        f"{WORDS[role]}</text></g>"
    )


class RoleDiagram(Directive):
    """The diagram, inline."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", svg(), format="html")]


class RoleTable(Directive):
    """One row for each trigger, one column for each role: what the role becomes, or nothing."""

    def run(self) -> list[nodes.Node]:
        head = ["", *(role.value for role in Role)]
        rows = [[trigger.value, *(_becomes(role, trigger) for role in Role)] for trigger in Trigger]
        meaning = nodes.definition_list()
        for trigger in Trigger:
            words = nodes.paragraph("", TRIGGERS[trigger].replace("`", ""))
            term = nodes.term("", "", nodes.literal("", trigger.value))
            meaning += nodes.definition_list_item("", term, nodes.definition("", words))
        return [_table(head, rows), meaning]


def _becomes(role: Role, trigger: Trigger) -> str:
    found = ROLE_TABLE.get((role, trigger))
    return found.value if found else "—"


def _table(head: list[str], rows: list[list[str]]) -> nodes.table:
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *map(_row, rows))
    return nodes.table("", group)


def _row(cells: list[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("role-diagram", RoleDiagram)
    app.add_directive("role-table", RoleTable)
    return {"version": "1", "parallel_read_safe": True}
