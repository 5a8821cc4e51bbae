"""A check that asks a web server: a real one on the loopback, with and without TLS."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import pytest
import trio
import trustme

from mirrorha.checks import Http
from mirrorha.errors import CheckFailedError, LocalUsageError
from tests.checks.trial import trial

AUTHORITY: Final = trustme.CA()


@final
class Site:
    """A web server that answers what the test says, or nothing."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"all is well"
        self.headers = b""
        self.hangs = False
        self.asked: list[bytes] = []

    async def handle(self, stream: trio.abc.Stream) -> None:
        async with stream:
            try:
                self.asked.append(bytes(await stream.receive_some(65536)))
                if self.hangs:
                    await trio.sleep_forever()
                length = b"Content-Length: %d\r\n" % len(self.body)
                head = b"HTTP/1.1 %d X\r\n" % self.status + self.headers + length
                await stream.send_all(head + b"\r\n" + self.body)
            except trio.BrokenResourceError:
                return


@asynccontextmanager
async def open_site(*, name: str = "") -> AsyncGenerator[tuple[Site, int], None]:
    """Listen on 127.0.0.1; with a certificate for `name`, if that is given."""
    site = Site()
    if name:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        AUTHORITY.issue_cert(name).configure_cert(context)
        listen = partial(trio.open_ssl_over_tcp_listeners, 0, context, host="127.0.0.1")
        (secure,) = await listen()
        listener: Any = secure
        port = secure.transport_listener.socket.getsockname()[1]
    else:
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener, port = plain, plain.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, site.handle, [listener])
        yield site, port
        nursery.cancel_scope.cancel()


async def test_it_fails_and_recovers() -> None:
    async with open_site() as (site, port):
        url = f"http://127.0.0.1:{port}/health?deep=1"
        async with trial(Http(url)) as made:
            await made.is_well()
            assert site.asked[-1].startswith(b"GET /health?deep=1 HTTP/1.1\r\n")
            site.status, site.body = 503, b"the database\n is down"
            assert await made.fails() == f"{url} answered 503: the database is down"
            site.status = 204
            site.body = b""
            await made.is_well()


async def test_a_server_that_hangs_and_one_that_is_gone() -> None:
    async with open_site() as (site, port):
        url = f"http://127.0.0.1:{port}/"
        async with trial(Http(url), timeout_s=0.3) as made:
            site.hangs = True
            assert await made.fails() == "no answer within 0.3 s"
            site.hangs = False
            await made.is_well()
    with pytest.raises(CheckFailedError, match=rf"{url}: .*refused"):
        await Http(url).check()


async def test_only_that_status_will_do() -> None:
    async with open_site() as (site, port):
        check = Http(f"http://127.0.0.1:{port}/", status=401)
        site.status, site.body = 401, b""
        await check.check()
        site.status = 200
        with pytest.raises(CheckFailedError, match=r"answered 200$"):
            await check.check()


async def test_the_answer_must_contain_a_text() -> None:
    async with open_site() as (site, port):
        check = Http(f"http://127.0.0.1:{port}/", contains="all is well")
        await check.check()
        site.body = b"all is lost"
        with pytest.raises(CheckFailedError, match="does not contain 'all is well'"):
            await check.check()


async def test_a_redirect_is_not_followed() -> None:
    async with open_site() as (site, port):
        site.status, site.headers = 302, b"Location: /login\r\n"
        with pytest.raises(CheckFailedError, match="answered 302, a redirect to /login"):
            await Http(f"http://127.0.0.1:{port}/").check()
        assert len(site.asked) == 1


async def test_a_server_that_says_too_much_and_what_cannot_be_shown() -> None:
    async with open_site() as (site, port):
        check = Http(f"http://127.0.0.1:{port}/")
        site.body = bytes(5 * 1024 * 1024)
        with pytest.raises(CheckFailedError, match="more than 4194304 bytes"):
            await check.check()
        site.status, site.body = 500, b"\x1b[2J\x00"
        with pytest.raises(CheckFailedError) as caught:
            await check.check()
        assert str(caught.value).isprintable()


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return path


async def test_a_certificate_is_verified(ca_file: Path) -> None:
    async with open_site(name="127.0.0.1") as (site, port):
        url = f"https://127.0.0.1:{port}/"
        await Http(url, ca_file=str(ca_file)).check()
        with pytest.raises(CheckFailedError, match="certificate verify failed"):
            await Http(url).check()
        await Http(url, verify=False).check()
        assert len(site.asked) == 2


async def test_it_connects_elsewhere_and_asks_for_the_name(ca_file: Path) -> None:
    async with open_site(name="orders.example") as (site, port):
        url = f"https://orders.example:{port}/"
        await Http(url, ca_file=str(ca_file), connect_to="127.0.0.1").check()
        assert f"Host: orders.example:{port}\r\n".encode() in site.asked[0]
        other = Http(f"https://127.0.0.1:{port}/", ca_file=str(ca_file))
        with pytest.raises(CheckFailedError, match="certificate"):
            await other.check()


async def test_authorities_are_read_each_time(ca_file: Path) -> None:
    away = ca_file.with_suffix(".away")
    async with open_site(name="127.0.0.1") as (_, port):
        check = Http(f"https://127.0.0.1:{port}/", ca_file=str(ca_file))
        async with trial(check) as made:
            await made.is_well()
            os.rename(ca_file, away)
            assert await made.fails() == f"ca_file {ca_file}: No such file or directory"
            os.rename(away, ca_file)
            await made.is_well()


@pytest.mark.parametrize("url", ["ftp://a/", "127.0.0.1:80", "http://", "http://a:0/"])
def test_it_wants_a_url(url: str) -> None:
    with pytest.raises(LocalUsageError, match="expected a URL of http or https"):
        Http(url)


def test_authorities_without_anything_to_verify() -> None:
    for check in (partial(Http, "http://a/"), partial(Http, "https://a/", verify=False)):
        with pytest.raises(LocalUsageError, match="no certificate is verified"):
            check(ca_file="/a.pem")
    assert str(Http("http://a/b")) == "http http://a/b"


async def test_a_disk_that_hangs_holds_up_one_thread(tmp_path: Path) -> None:
    """Attempts are made for as long as it hangs: each would leave another thread behind."""
    authorities = tmp_path / "ca.pem"
    os.mkfifo(authorities)
    check = Http("https://127.0.0.1:1/", ca_file=str(authorities))
    before = threading.active_count()
    for _ in range(5):
        with trio.move_on_after(0.2):
            await check.check()
    try:
        assert threading.active_count() - before <= 2
    finally:
        end = os.open(authorities, os.O_WRONLY)
        await trio.sleep(0.1)
        os.close(end)
