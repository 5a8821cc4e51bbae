"""A check that asks a web server."""

from __future__ import annotations

import math
import ssl
from typing import ClassVar, Final, final

import attrs
import trio

from mirrorha.abc import Check
from mirrorha.config import forms
from mirrorha.errors import CheckFailedError, HttpError, LocalUsageError
from mirrorha.net import http_client

WORDS_CHARS_MAX: Final = 120
_REDIRECTS: Final = range(300, 400)


@final
@attrs.frozen
class Http(Check):
    """A web server answers a GET as it should, with at most 4 MiB. Redirects are not followed.

    Args:
        url: What is asked for, with `http` or `https`.
        status: The status that is well; by default all from 200 to 299 are.
        contains: Text that the answer must contain.
        connect_to: A name or address to connect to instead of the URL's host, such as 127.0.0.1
            where that is an address that moves, or the name in a certificate.
        ca_file: A file of the authorities, in PEM, that may have signed the server's certificate,
            instead of the system's. It is read each time, so it may be renewed.
        verify: False: the server's certificate may be anybody's.

    Raises:
        LocalUsageError: the URL is none, or `ca_file` is given and nothing to be verified by it.
    """

    kind: ClassVar[str] = "http"

    url: str
    status: int | None = attrs.field(default=None, kw_only=True)
    contains: str = attrs.field(default="", kw_only=True)
    connect_to: str | None = attrs.field(default=None, kw_only=True)
    ca_file: str | None = attrs.field(default=None, kw_only=True)
    verify: bool = attrs.field(default=True, kw_only=True)
    _limiter: trio.CapacityLimiter = attrs.field(
        factory=lambda: trio.CapacityLimiter(1), init=False, repr=False, eq=False
    )

    def __attrs_post_init__(self) -> None:
        if not forms.URL.accepts(self.url):
            raise LocalUsageError(f"expected {forms.URL.expected}, not {forms.shown(self.url)}")
        if self.ca_file is not None and not (self.is_secure and self.verify):
            raise LocalUsageError(f"{self.url}: ca_file is given, but no certificate is verified")

    def __str__(self) -> str:
        return f"http {self.url}"

    @property
    def is_secure(self) -> bool:
        """Whether the server has to show a certificate."""
        return self.url.startswith("https:")

    async def check(self) -> None:
        """Ask once.

        Raises:
            CheckFailedError: no whole answer, or another one.
        """
        try:
            answer = await http_client.fetch(
                "GET",
                self.url,
                deadline_s=math.inf,
                connect_to=self.connect_to,
                ssl_context=await self._ssl_context(),
            )
        except HttpError as error:
            raise CheckFailedError(str(error)) from error
        if not self._is_good(answer.status):
            raise CheckFailedError(f"{self.url} answered {_said(answer)}")
        if self.contains not in answer.text:
            shown = forms.shown(self.contains)
            raise CheckFailedError(f"{self.url}: the answer does not contain {shown}")

    def _is_good(self, status: int) -> bool:
        return 200 <= status < 300 if self.status is None else status == self.status

    async def _ssl_context(self) -> ssl.SSLContext | None:
        if not self.is_secure:
            return None
        # In a thread: files are read, which may lie on a disk that hangs. That one is waited for.
        return await trio.to_thread.run_sync(
            self._make_context, abandon_on_cancel=True, limiter=self._limiter
        )

    def _make_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            why = error.strerror or str(error)
            raise CheckFailedError(f"ca_file {self.ca_file}: {why}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _said(answer: http_client.HttpResponse) -> str:
    """The status, and what else the server said, in one bounded line."""
    if answer.status in _REDIRECTS:
        return f"{answer.status}, a redirect to {answer.headers.get('location', 'nowhere')}"
    words = " ".join(answer.text[: 4 * WORDS_CHARS_MAX].split())[:WORDS_CHARS_MAX]
    return f"{answer.status}: {words}" if words.isprintable() and words else str(answer.status)
