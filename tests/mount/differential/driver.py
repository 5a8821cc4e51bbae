"""The same operations on two directories by several processes, and every answer compared.

    with Differential(subject, reference) as differential:
        differential.run(operations)

`subject` is what is tested, a mount for example; `reference` an ordinary directory, on the same
kind of file system as the one below the mount. After every run the two trees are compared, and then
`after` is called with the run's directory's name in both: to compare a third tree, say.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.mount.differential.comparison import TreeRules, differences

ACTOR = Path(__file__).with_name("actor.py")
REPOSITORY = Path(__file__).parents[3]
ANSWER_S = 30.0

Operation = tuple[Any, ...]  # number of the actor, name, arguments
Answer = list[Any]


class DifferenceError(AssertionError):
    """The two sides did not do the same."""


class HangError(AssertionError):
    """One side did not answer."""


@attrs.frozen
class Allowance:
    """A difference that is known and documented: where `fits` it is passed over."""

    why: str
    fits: Callable[[Operation, Answer, Answer], bool]


@attrs.define
class Actor:
    """A process that does what it is told. See `actor.py`."""

    child: subprocess.Popen[bytes]

    @classmethod
    def start(cls, root: Path, user: int) -> Actor:
        return cls(
            subprocess.Popen(
                [sys.executable, str(ACTOR), str(root), str(user)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )

    def ask(self, name: str, *arguments: Any) -> Answer:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        self.child.stdin.flush()
        ready, _, _ = select.select([self.child.stdout], [], [], ANSWER_S)
        if not ready:
            raise HangError(f"no answer to {name}{arguments} within {ANSWER_S} s")
        line = self.child.stdout.readline()
        if not line:
            raise HangError(f"died of {name}{arguments}: status {self.child.wait(5)}")
        answer: Answer = json.loads(line)
        return answer

    def end(self) -> None:
        self.child.kill()
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(5)


@attrs.define
class Differential:
    """Compares two directories, which it fills. As root, for its processes chroot to them.

    Attributes:
        users: who the processes are; user 0 can only be had by root.
        allowances: known differences.
        watch: called after each operation that did not differ, with it.
        after: called after each run whose trees were equal, with the name of the run's directory.
        ends: how often which operation ended how on the reference: `done` or `error`.
        allowed: how often which allowance was made use of.
    """

    subject: Path
    reference: Path
    users: Sequence[int] = (0, 0, 1000)
    rules: TreeRules = attrs.field(factory=TreeRules)
    allowances: Sequence[Allowance] = ()
    watch: Callable[[Operation], None] | None = None
    after: Callable[[str], None] | None = None
    runs: int = 0
    ends: Counter[tuple[str, str]] = attrs.field(factory=Counter, repr=False)
    allowed: Counter[str] = attrs.field(factory=Counter)
    _actors: list[tuple[Actor, Actor]] = attrs.field(factory=list, repr=False)

    def __enter__(self) -> Differential:
        self._actors = [
            (Actor.start(self.subject, user), Actor.start(self.reference, user))
            for user in self.users
        ]
        return self

    def __exit__(self, *args: object) -> None:
        for pair in self._actors:
            for actor in pair:
                actor.end()

    def run(self, operations: Sequence[Operation]) -> None:
        """Do all of it in a fresh directory of each side.

        Raises:
            DifferenceError: an answer, or a tree, is not the same. The text lists what was done.
            HangError: there is no answer. Abort the mount then.
        """
        self.runs += 1
        name = f"run{self.runs}"
        self._begin(name)
        done: list[str] = []
        for operation in operations:
            ours, theirs = self._do(operation)
            done.append(f"{operation} -> {theirs}")
            if ours != theirs and not self._is_allowed(operation, ours, theirs):
                raise DifferenceError(_report(done, [f"the subject answered {ours}"]))
            self.ends[operation[1], theirs[0]] += 1
            if self.watch is not None:
                self.watch(operation)
        self._compare(name, done)
        if self.after is not None:
            self.after(name)

    def run_and_minimise(self, operations: Sequence[Operation]) -> None:
        """`run`; what fails is tried again with fewer operations, and raised as the shortest.

        Raises:
            DifferenceError, HangError: as `run`, a hang at once.
        """
        last: list[DifferenceError] = []

        def is_wrong(tried: Sequence[Operation]) -> bool:
            try:
                self.run(tried)
            except DifferenceError as error:
                last.append(error)
                return True
            return False

        if is_wrong(operations):
            minimise(operations, is_wrong)
            raise last[-1]

    def _begin(self, name: str) -> None:
        # By an actor, for here it may hang. All may do everything there.
        for side in range(2):
            chief = self._actors[0][side]
            for command in (
                ("reset", "/"),
                ("umask", 0),
                ("mkdir", name, 0o777),
                ("umask", 0o022),
            ):
                self._demand(chief, *command)
            for pair in self._actors:
                self._demand(pair[side], "reset", f"/{name}")

    def _demand(self, actor: Actor, *command: Any) -> None:
        answer = actor.ask(*command)
        if answer[0] != "done":
            raise DifferenceError(f"{command}: {answer}")

    def _do(self, operation: Operation) -> tuple[Answer, Answer]:
        number, name, *arguments = operation
        theirs = self._actors[number][1].ask(name, *arguments)
        return self._actors[number][0].ask(name, *arguments), theirs

    def _is_allowed(self, operation: Operation, ours: Answer, theirs: Answer) -> bool:
        for one in self.allowances:
            if one.fits(operation, ours, theirs):
                self.allowed[one.why] += 1
                return True
        return False

    def _compare(self, name: str, done: Sequence[str]) -> None:
        ours, theirs = (
            read_tree(root / name, self.rules) for root in (self.subject, self.reference)
        )
        found = differences(ours, theirs)
        if found:
            raise DifferenceError(_report(done, [f"in the trees: {line}" for line in found]))


def storm(place: Path, operations: Sequence[Sequence[Operation]], name: str) -> Counter[str]:
    """Several processes at once, each with its operations, in a new directory of `place`.

    Returns:
        How many of them ended how.

    Raises:
        HangError: somebody got no answer.
    """
    actors = [Actor.start(place, 0) for _ in operations]
    ends: Counter[str] = Counter()
    failures: list[BaseException] = []

    def act(actor: Actor, mine: Sequence[Operation]) -> None:
        try:
            for _, *command in mine:
                ends[actor.ask(*command)[0]] += 1
        except HangError as error:
            # Another may have cut off what is mapped, between a look at its size and a store.
            if actor.child.poll() != -signal.SIGBUS:
                failures.append(error)
        except OSError as error:
            failures.append(error)

    try:
        for command in (("reset", "/"), ("mkdir", name, 0o777)):
            actors[0].ask(*command)
        for actor in actors:
            actor.ask("reset", f"/{name}")
        threads = [
            threading.Thread(target=act, args=each) for each in zip(actors, operations, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for actor in actors:
            if actor.child.poll() is None:
                actor.ask("reset", "/")  # what is mapped and not written is written
    finally:
        for actor in actors:
            actor.end()
    if failures:
        raise failures[0]
    return ends


def minimise(
    operations: Sequence[Operation], is_wrong: Callable[[Sequence[Operation]], bool]
) -> list[Operation]:
    """Leave out of a list that `is_wrong` what it is wrong without, as far as that is easy."""
    kept, step = list(operations), len(operations) // 2
    while step:
        start = 0
        while start < len(kept):
            tried = kept[:start] + kept[start + step :]
            if tried and is_wrong(tried):
                kept = tried
            else:
                start += step
        step //= 2
    return kept


def read_tree(root: Path, rules: TreeRules) -> dict[str, Any]:
    """`snapshot` in a process of its own, for what is looked at may hang."""
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tests.mount.differential.comparison import TreeRules, snapshot\n"
        "left_out, ignored, *flags = json.loads(sys.argv[2])\n"
        "rules = TreeRules(frozenset(left_out), frozenset(ignored), *flags)\n"
        "print(json.dumps(snapshot(Path(sys.argv[1]), rules)))\n"
    )
    fields: list[Any] = [sorted(rules.left_out), sorted(rules.ignored_xattrs)]
    fields += [rules.with_holes, rules.with_times]
    with _child([sys.executable, "-c", program, str(root), json.dumps(fields)]) as child:
        try:
            output, _ = child.communicate(timeout=2 * ANSWER_S)
        except subprocess.TimeoutExpired:
            raise HangError(f"{root} cannot be read within {2 * ANSWER_S} s") from None
    if child.returncode:
        raise DifferenceError(f"{root} cannot be read; see above")
    tree: dict[str, Any] = json.loads(output)
    return tree


@contextlib.contextmanager
def _child(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        yield child
    finally:
        child.kill()
        if child.stdout is not None:
            child.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)


def _report(done: Sequence[str], found: Sequence[str]) -> str:
    return "\n".join(["what was done, and the reference's answers:", *done, *found])
