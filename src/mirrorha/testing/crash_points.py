"""Every durable step by name, so that a crash can be tried right before and right after each.

Three tables, and nothing that acts. What a simulated node writes of its own state is told by what
changes in it (`STATE_STEPS`); what it asks of a disk, by the request (`DISK_STEPS`). What a real
node makes durable is told by the function that does it, and of files that are replaced whole by the
file's name (`REAL_STEPS`). A new durable step is to be entered here: tests hold that.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

import attrs

from mirrorha.core.meta import Meta
from mirrorha.core.register import Register
from mirrorha.volume import disk as d


class Moment(enum.Enum):
    """When: it is not durable yet, or it is and nobody has seen an effect of it."""

    BEFORE = "before"
    AFTER = "after"


# ---- what a node writes of its own state ----


@attrs.frozen
class StateStep:
    """One reason to write the node's state.

    Attributes:
        fields: of `Meta`, what it changes.
        is_taken: whether it is taken from the one to the other.
    """

    name: str
    fields: tuple[str, ...]
    is_taken: Callable[[Meta, Meta], bool]


def _changes(field: str) -> Callable[[Meta, Meta], bool]:
    return lambda before, after: getattr(before, field) != getattr(after, field)


def _begins(field: str) -> Callable[[Meta, Meta], bool]:
    return lambda before, after: bool(getattr(after, field)) and not getattr(before, field)


def _ends(field: str) -> Callable[[Meta, Meta], bool]:
    return lambda before, after: bool(getattr(before, field)) and not getattr(after, field)


def _holds(is_so: Callable[[str, Register], bool]) -> Callable[[Meta, Meta], bool]:
    def is_taken(before: Meta, after: Meta) -> bool:
        record = after.held
        return record is not None and record != before.held and is_so(after.node, record)

    return is_taken


def _intends(before: Meta, after: Meta) -> bool:
    return any(record not in before.intended for record in after.intended)


STATE_STEPS: Final = (
    StateStep("incarnation begun", ("incarnation", "boot_id", "disks"), _changes("incarnation")),
    StateStep("record intended", ("intended", "top_epoch"), _intends),
    StateStep("record held, alone", ("held",), _holds(lambda me, r: r.is_alone(me))),
    StateStep("record held, both", ("held",), _holds(lambda _, r: len(r.in_sync) == 2)),
    StateStep("record held, the peer's", ("held",), _holds(lambda me, r: me not in r.in_sync)),
    StateStep("record seen", ("seen_epoch", "cluster_id"), _changes("seen_epoch")),
    StateStep("generation rotated", ("lineage", "base"), _changes("lineage")),
    StateStep("dirty", ("dirty",), _begins("dirty")),
    StateStep("stopped in good order", ("dirty",), _ends("dirty")),
    StateStep("unclean", ("unclean",), _begins("unclean")),
    StateStep("healed", ("unclean",), _ends("unclean")),
    StateStep("all durable, or no more", ("all_durable",), _changes("all_durable")),
    StateStep("being filled", ("inconsistent",), _begins("inconsistent")),
    StateStep("filled", ("inconsistent",), _ends("inconsistent")),
    StateStep("paused, or resumed", ("paused",), _changes("paused")),
    StateStep("promised to the peer", ("promised",), _begins("promised")),
    StateStep("promise settled", ("promised",), _ends("promised")),
    StateStep("copy of the register", ("copy",), _changes("copy")),
    StateStep("parted from the peer", ("parted",), _begins("parted")),
    StateStep("alone last", ("stopped_alone",), _begins("stopped_alone")),
    StateStep("standing given up", ("outdated",), _begins("outdated")),
    StateStep("standing given back", ("outdated",), _ends("outdated")),
    StateStep("split reported", ("split", "disputed"), _begins("split")),
    StateStep("split settled", ("split", "disputed"), _ends("split")),
    StateStep("force prepared, or over", ("forcing",), _changes("forcing")),
    StateStep("forced", ("forced",), _changes("forced")),
    StateStep("serving by force", ("unconfirmed",), _begins("unconfirmed")),
    StateStep("force made good, or lost", ("unconfirmed",), _ends("unconfirmed")),
    StateStep("stood down", ("stood_down",), _begins("stood_down")),
    StateStep("standing taken again", ("stood_down",), _ends("stood_down")),
    StateStep("side given up", ("given_up",), _changes("given_up")),
    StateStep("admission voided", ("voided",), _changes("voided")),
    StateStep("rescue begun", ("rescue",), _begins("rescue")),
    StateStep("rescue ended", ("rescue",), _ends("rescue")),
    StateStep("rescue noted", ("rescued",), _changes("rescued")),
)
#: What never changes.
STATE_FIELDS_LEFT_OUT: Final = frozenset({"node"})


def state_steps(before: Meta, after: Meta) -> tuple[str, ...]:
    """The names of the steps that writing `after` takes."""
    return tuple(step.name for step in STATE_STEPS if step.is_taken(before, after))


# ---- what a disk is asked for ----

DISK_STEPS: Final[dict[type[d.Request], str]] = {
    d.Apply: "op applied",
    d.ApplyHere: "op applied here alone",
    d.ApplyAll: "ops applied by the follower",
    d.SyncFiles: "files synced",
    d.SyncTree: "tree synced",
    d.RecordTouched: "touched log recorded",
    d.RetireTouched: "touched log retired",
    d.ConfirmCheckpoint: "checkpoint confirmed",
    d.SetAside: "name set aside",
    d.Place: "name placed",
    d.Relabel: "id given",
    d.PunchHole: "hole punched",
    d.ClearLimbo: "limbo cleared",
    d.Mark: "volume marked",
    d.BeginRescue: "rescue directory made",
    d.KeepFiles: "files kept",
    d.KeepAttributes: "attributes kept",
    d.KeepNames: "names kept",
    d.NoteReplaced: "replaced files noted",
    d.NoteRenamed: "renamed files noted",
}
#: They change nothing, or consist of others.
READS: Final = frozenset(
    {
        d.ReadBytes,
        d.HashBlocks,
        d.ListDirectory,
        d.ReadAttributes,
        d.Resolve,
        d.LoadTouched,
        d.MeasureSpace,
        d.SumRescue,
        d.Restate,
        d.Locate,
        d.ReadAnew,
        d.Many,
    }
)


def disk_steps(request: d.Request) -> tuple[str, ...]:
    """The names of the steps that a request takes."""
    if isinstance(request, d.Many):
        names = (name for one in request.requests for name in disk_steps(one))
        return tuple(dict.fromkeys(names))
    name = DISK_STEPS.get(type(request))
    return () if name is None else (name,)


# ---- what a real node makes durable ----


@attrs.frozen
class RealStep:
    """One function that makes something durable.

    Attributes:
        module, function: below `mirrorha`.
        text: what it makes durable.
        of: which file, or for which caller, where it serves several.
        seldom: why an ordinary run of two nodes does not get there, or "".
    """

    module: str
    function: str
    text: str
    of: str = ""
    seldom: str = ""

    @property
    def name(self) -> str:
        """Of the step, as a watcher tells it."""
        return f"{self.module}: {self.function}" + (f" of {self.of}" if self.of else "")


def _replaced(file: str, text: str, seldom: str = "") -> tuple[RealStep, ...]:
    """A file is replaced whole: first its new content, then its name."""
    return (
        RealStep("state.atomic", "_write_new", f"{text}: the new content", file, seldom),
        RealStep("state.atomic", "_sync_directory", f"{text}: the name", file, seldom),
    )


_DISK: Final = "volume.local_disk"
_FULL: Final = "only where its disk is full"
_KEPT: Final = "only where the other node has removed a directory with excluded files in it"
REAL_STEPS: Final = (
    *_replaced("node.json", "the state of the node"),
    *_replaced(".mirrorha-volume", "the volume's id", "once, when it becomes a volume"),
    *_replaced("stamp", "up to when changes are the node's own"),
    *_replaced("touched.count", "how many changes the touched log has had"),
    *_replaced("missing.json", "whether files are meant to be gone", "only where many are"),
    *_replaced("verify.json", "what a comparison found", "only where the copies are compared"),
    RealStep("state.history", "_insert", "what happened"),
    RealStep("state.reserve", "_allocate", "room for a full disk", seldom=f"once, and {_FULL}"),
    RealStep(f"{_DISK}.ids", "_connect", "the files of the table of ids"),
    RealStep(f"{_DISK}.ids", "_store", "ids that the walk at the opening has found"),
    RealStep(f"{_DISK}.ids", "flush", "ids of what was made since"),
    RealStep(f"{_DISK}.stamp", "begin", "the stamp, over the old one", seldom=_FULL),
    RealStep(f"{_DISK}.stamp", "sync", "the stamp, as it was renewed"),
    RealStep(f"{_DISK}.stamp", "finish", "the stamp of an end in good order"),
    RealStep(f"{_DISK}.watermark", "rise", "how far the volume's directory has come"),
    RealStep(f"{_DISK}.touched_store", "_commit", "entries, before what they are about", "record"),
    RealStep(f"{_DISK}.touched_store", "_commit", "a checkpoint on both nodes", "retire"),
    RealStep(f"{_DISK}.touched_store", "_commit", "a checkpoint on this node", "confirm"),
    RealStep(
        f"{_DISK}.touched_store",
        "_commit",
        "that nothing was changed without the log",
        "begin",
        "once, when the log is new",
    ),
    RealStep(
        f"{_DISK}.touched_store",
        "_commit",
        "that entries may be missing",
        "distrust",
        "only where the log was damaged, or ids were lost",
    ),
    RealStep(f"{_DISK}.sync_threads", "work", "files and directories of the volume"),
    RealStep(f"{_DISK}.syscalls", "sync_file_system", "all of the volume's file system"),
    RealStep(f"{_DISK}.excluded", "_move_to_kept", "excluded files set apart", seldom=_KEPT),
    RealStep(f"{_DISK}.excluded", "_make_place", "a place for them", seldom=_KEPT),
)
#: Functions (module, name) that make something durable, and not for a node that runs.
OTHERS: Final[dict[tuple[str, str], str]] = {
    ("checks.disk", "_probe"): "a check's file, which nobody reads",
    ("net.keys", "_write_new"): "keys, by a command of an operator",
    ("net.keys", "_sync_directory"): "keys, by a command of an operator",
    ("state.atomic", "make_durable"): "a register, by a witness or a local arbiter",
    ("volume.files.mounted", "_write_new"): "an application's file, on the mount",
    ("volume.files.mounted", "_sync"): "an application's file, on the mount",
    (f"{_DISK}.handles", "_sync_file_system"): "calls `syscalls.sync_file_system`",
}
