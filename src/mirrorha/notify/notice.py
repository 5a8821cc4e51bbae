"""What is told, and what tells it."""

from __future__ import annotations

import datetime
from typing import ClassVar, Final, Literal, Protocol, final, get_args

import attrs

Subject = Literal["role", "split", "degraded", "check", "switch"]
SUBJECTS: Final[tuple[Subject, ...]] = get_args(Subject)

#: Of the document that a webhook is sent.
SCHEMA: Final = 1


@final
@attrs.frozen(kw_only=True)
class Notice:
    """Something that a person should know.

    Attributes:
        subject: "role": this node became another; "split": both nodes acknowledged writes apart;
            "degraded": this node serves unprotected, or needs a person; "check", "switch": one of
            them fails.
        is_over: what was told before has ended. Of "role" never.
        cluster, node: which of your clusters, and which node tells.
        epoch, role: what that node is.
        at_s: when, in seconds since 1970, by its clock.
        text: what and why, in a sentence.
    """

    subject: Subject
    is_over: bool = False
    cluster: str
    node: str
    epoch: int
    role: str
    at_s: float
    text: str

    @property
    def title(self) -> str:
        """One line, such as a subject of a mail."""
        what = f"{self.subject} is over" if self.is_over else self.subject
        return f"{self.cluster}: {self.node} {self.role}: {what}: {self.text}"

    def document(self) -> dict[str, object]:
        """As a webhook sends it: JSON-able, stable keys."""
        moment = datetime.datetime.fromtimestamp(self.at_s, tz=datetime.UTC)
        return {
            "schema": SCHEMA,
            "subject": self.subject,
            "over": self.is_over,
            "cluster": self.cluster,
            "node": self.node,
            "epoch": self.epoch,
            "role": self.role,
            "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "text": self.text,
            "title": self.title,
        }

    def environment(self) -> dict[str, str]:
        """As a command is told it."""
        return {
            "MIRRORHA_CLUSTER": self.cluster,
            "MIRRORHA_NODE": self.node,
            "MIRRORHA_EPOCH": str(self.epoch),
            "MIRRORHA_ROLE": self.role,
            "MIRRORHA_SUBJECT": self.subject,
            "MIRRORHA_OVER": "1" if self.is_over else "0",
            "MIRRORHA_TEXT": self.text.replace("\0", ""),
            "MIRRORHA_TITLE": self.title.replace("\0", ""),
        }


class Notifier(Protocol):
    """What tells: a command, a webhook."""

    kind: ClassVar[str]

    async def tell(self, notice: Notice) -> None:
        """Return once it is told. Raises NotifyError: it is not, as far as is known."""
