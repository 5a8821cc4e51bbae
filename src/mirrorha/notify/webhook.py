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
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LocalUsageError("a webhook's URL is such as https://host.example/path")
        self._url: Final = url
        self._host: Final = parts.hostname
        self._token_file: Final = token_file

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
                limiter=trio.CapacityLimiter(1),
            )
        except (OSError, ValueError) as error:
            raise NotifyError(f"{self}: {self._token_file} cannot be read") from error
        return [("Authorization", f"Bearer {token.strip()}")]
