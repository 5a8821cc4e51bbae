"""Answers that are no success, as RFC 9457 has them, with a `hint`: what to do now."""

from __future__ import annotations

from typing import Final, final

import msgspec

from mirrorha.net.http import Response

SCHEMA: Final = 1
NO_STORE: Final = ("Cache-Control", "no-store")
JSON: Final = ("Content-Type", "application/json")
PROBLEM: Final = ("Content-Type", "application/problem+json")


@final
class Problem(Exception):  # noqa: N818 - it is an answer, raised so that it needs no passing up
    """A request is answered with this instead.

    Args:
        status: of HTTP.
        detail: what is wrong, and whose fault it is.
        hint: what to do now.
    """

    def __init__(self, status: int, detail: str, *, hint: str, allow: str = "") -> None:
        self.status: Final = status
        self.detail: Final = detail
        self.hint: Final = hint
        self._allow: Final = allow
        super().__init__(detail)

    def response(self) -> Response:
        """The answer."""
        document = {
            "schema": SCHEMA,
            "title": _TITLES.get(self.status, "failed"),
            "status": self.status,
            "detail": self.detail,
            "hint": self.hint,
        }
        headers = [PROBLEM, NO_STORE]
        if self._allow:
            headers.append(("Allow", self._allow))
        return Response(
            status=self.status, headers=tuple(headers), body=msgspec.json.encode(document)
        )


_TITLES: Final = {
    400: "the request is wrong",
    403: "not allowed",
    404: "no such thing",
    405: "not by this method",
    409: "refused",
    429: "too many at once",
    500: "a fault of this program",
}


def answer(document: object, *, status: int = 200, location: str = "") -> Response:
    """A document as JSON, never to be kept by anybody."""
    headers = [JSON, NO_STORE]
    if location:
        headers.append(("Location", location))
    return Response(status=status, headers=tuple(headers), body=msgspec.json.encode(document))
