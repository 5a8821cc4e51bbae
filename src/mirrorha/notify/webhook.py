"""Tells by a request over HTTP."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, final

import trio

from mirrorha.errors import HttpError, LocalUsageError, NotifyError
from mirrorha.net import http_client

if TYPE_CHECKING:
    from mirrorha.notify.notice import Notice

#: Of one request; the outbox has a limit of its own besides.
DEADLINE_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 64 * 1024


@final
class Webhook:
    """Posts each notice as a JSON document; any answer of 200 to 299 means that it was told.

    Args:
        url: Where to. What stands in it is shown nowhere but its host, for it may be a secret.
        token_file: Holds a token that is sent as `Authorization: Bearer …`, read at each notice.

    Raises:
        LocalUsageError: the URL is none.
    """

    kind: ClassVar[str] = "webhook"

    def __init__(self, url: str, *, token_file: str | None = None) -> None:
        host = _host_of(url)
        if not host:
            raise LocalUsageError(
                "a webhook's URL is such as https://host.example/path, in printable ASCII"
            )
        self._url: Final = url
        self._host: Final = host
        self._token_file: Final = token_file
        # A file on a disk that hangs holds up one thread, not one at each notice.
        self._limiter: Final = trio.CapacityLimiter(1)

    def __str__(self) -> str:
        return f"webhook {self._host}"

    async def tell(self, notice: Notice) -> None:
        """Post it. Raises NotifyError: no answer that says so."""
        headers = [("Content-Type", "application/json"), *await self._authorization()]
        try:
            answer = await http_client.fetch(
                "POST",
                self._url,
                deadline_s=DEADLINE_S,
                headers=headers,
                body=json.dumps(notice.document()).encode(),
                body_bytes_max=ANSWER_BYTES_MAX,
            )
        except (HttpError, LocalUsageError) as error:
            # Its text may hold the URL.
            text = str(error).replace(self._url, self._host)
            raise NotifyError(f"{self}: {text}") from None
        if not 200 <= answer.status < 300:
            raise NotifyError(f"{self} answered {answer.status}")

    async def _authorization(self) -> list[tuple[str, str]]:
        if self._token_file is None:
            return []
        try:
            token = await trio.to_thread.run_sync(
                Path(self._token_file).read_text,
                abandon_on_cancel=True,
                limiter=self._limiter,
            )
        except (OSError, ValueError):
            raise NotifyError(f"{self}: {self._token_file} cannot be read") from None
        # What cannot be sent would stand in the error.
        if not _is_plain(token.strip()):
            raise NotifyError(f"{self}: {self._token_file} is not one line of printable ASCII")
        return [("Authorization", f"Bearer {token.strip()}")]


def _host_of(url: str) -> str:
    """The host of a URL that can be asked for; else ""."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError:
        return ""
    is_good = parts.scheme in ("http", "https") and _is_plain(url)
    return (parts.hostname or "") if is_good else ""


def _is_plain(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
