"""The management API over its real Unix socket, about a node that a test controls."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mirrorha.api import ManagementApi, socket_path
from mirrorha.api.operations import REMEMBERED_MAX, RUNNING_MAX, Operations
from mirrorha.api.watching import SILENT_LOOKS_MAX, event_stream
from mirrorha.errors import LocalUsageError
from mirrorha.net.http import Request
from mirrorha.net.http_client import HttpResponse, fetch, open_stream
from tests.api.fake_node import FakeEvent, FakeGap, FakeNode, document

PLAIN = ("start", "stop", "restart", "swap", "pause", "resume")


class Site:
    def __init__(self, path: Path) -> None:
        self.node = FakeNode()
        self.path = socket_path(path)
        self.api = ManagementApi(self.node, path=self.path)

    async def ask(self, method: str, path: str, body: bytes = b"") -> HttpResponse:
        url = f"http://node/api/v1{path}"
        return await fetch(method, url, deadline_s=20, unix_path=str(self.path), body=body)

    async def problem(self, method: str, path: str, status: int, body: bytes = b"") -> Any:
        """Ask, expect to be refused so, and return the problem."""
        answer = await self.ask(method, path, body)
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
        found: Any = answer.json()
        assert found["schema"] == 1
        assert found["status"] == status
        assert found["detail"]
        assert found["hint"]
        return found


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Site]:
    site = Site(path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(site.api.serve)
            yield site
            nursery.cancel_scope.cancel()


async def test_status_is_the_nodes_document(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        answer = await site.ask("GET", "/status")
        assert answer.status == 200
        assert answer.json() == document()
        assert answer.headers["cache-control"] == "no-store"
        head = await site.ask("HEAD", "/status")
        assert (head.status, head.body) == (200, b"")


async def test_only_its_user_may_open_the_socket(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        assert stat.S_IMODE(site.path.stat().st_mode) == 0o600
    assert not site.path.exists()


@pytest.mark.parametrize("uid", [None, 4711])
async def test_others_are_turned_away(tmp_path: Path, uid: int | None) -> None:
    """The kernel's word counts besides the socket's mode; what comes by TCP has none."""
    site = Site(tmp_path)
    request = Request(method="POST", path="/api/v1/commands/stop", peer_uid=uid)
    answer = await site.api.server.handler(request)
    assert answer.status == 403
    assert not site.node.asked


@pytest.mark.parametrize("name", PLAIN)
async def test_a_command_that_ends_is_answered_200(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as site:
        answer = await site.ask("POST", f"/commands/{name}")
        found: Any = answer.json()
        assert answer.status == 200
        assert (found["command"], found["state"]) == (name, "done")
        assert found["text"] == f"{name} was done"
        assert site.node.asked == [name]


@pytest.mark.parametrize("name", PLAIN)
async def test_a_refusal_is_409_with_the_nodes_reason(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as site:
        site.node.refusing[name] = "lyon is not up to date"
        found = await site.problem("POST", f"/commands/{name}", 409)
        assert found["detail"] == "lyon is not up to date"
        assert "mirrorha status" in found["hint"]


async def test_a_long_command_is_202_and_ends_where_its_operation_says(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        gate = site.node.gates["swap"] = trio.Event()
        answer = await site.ask("POST", "/commands/swap?wait_s=0.01")
        found: Any = answer.json()
        assert (answer.status, found["state"]) == (202, "running")
        where = answer.headers["location"].removeprefix("/api/v1")
        assert where == f"/operations/{found['operation']}"
        still: Any = (await site.ask("GET", where)).json()
        assert still["state"] == "running"
        gate.set()
        ended: Any = (await site.ask("GET", f"{where}?wait_s=10")).json()
        assert (ended["state"], ended["text"]) == ("done", "swap was done")


async def test_a_command_goes_on_when_its_client_leaves(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        gate = site.node.gates["swap"] = trio.Event()
        async with await trio.open_unix_socket(str(site.path)) as client:
            await client.send_all(
                b"POST /api/v1/commands/swap HTTP/1.0\r\nContent-Length: 0\r\n\r\n"
            )
            while not site.node.asked:
                await trio.lowlevel.checkpoint()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        (operation,) = site.api._operations._known.values()
        assert operation.text == "swap was done"


async def test_a_refused_operation_says_so_later(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        gate = site.node.gates["swap"] = trio.Event()
        site.node.refusing["swap"] = "lyon could not start it"
        begun: Any = (await site.ask("POST", "/commands/swap?wait_s=0")).json()
        gate.set()
        ended: Any = (await site.ask("GET", f"/operations/{begun['operation']}?wait_s=9")).json()
        assert (ended["state"], ended["text"]) == ("refused", "lyon could not start it")


async def test_a_fault_is_500_and_the_node_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as site:
        site.node.faulty["swap"] = ZeroDivisionError("a bug")
        found = await site.problem("POST", "/commands/swap", 500)
        assert "log" in found["hint"]
        assert "ZeroDivisionError" in caplog.text
        assert (await site.ask("GET", "/status")).status == 200


async def test_init_and_resync_are_about_this_node(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        assert (await site.ask("POST", "/commands/init", b'{"from": "paris"}')).status == 200
        body = b'{"node": "paris", "full": true}'
        assert (await site.ask("POST", "/commands/resync", body)).status == 200
        assert site.node.asked == ["init", "accept"]


async def test_the_rate_of_a_resync_is_set_on_its_own(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        rate = b'{"rate_bytes_per_s": 50000000}'
        assert (await site.ask("POST", "/commands/resync", rate)).status == 200
        assert site.node.rates == [50_000_000]
        for body in (b"{}", b'{"rate_bytes_per_s": 5, "node": "paris", "full": true}'):
            found = await site.problem("POST", "/commands/resync", 400, body)
            assert "either a node is filled, or a rate is set" in found["detail"]
        assert site.node.asked == ["set_resync_rate"]


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (b"", {"without_arbiter": False, "inconsistent_data": False}),
        (b'{"without_arbiter": true}', {"without_arbiter": True, "inconsistent_data": False}),
        (b'{"inconsistent_data": true}', {"without_arbiter": False, "inconsistent_data": True}),
    ],
)
async def test_a_force_allows_what_it_names(
    tmp_path: Path, body: bytes, options: dict[str, bool]
) -> None:
    async with running(tmp_path) as site:
        assert (await site.ask("POST", "/commands/force-primary", body)).status == 200
        assert (site.node.asked, site.node.options) == (["force_primary"], [options])
        assert (await site.ask("POST", "/commands/force-secondary")).status == 200
        assert site.node.asked == ["force_primary", "force_secondary"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/commands/init", b'{"from": "lyon"}', "only lyon itself"),
        ("/commands/init", b'{"from": "rome"}', "no node 'rome'"),
        ("/commands/resync", b'{"node": "lyon", "full": true}', "only lyon itself"),
        ("/commands/resync", b'{"node": "paris"}', "by itself"),
    ],
)
async def test_what_this_node_cannot_do_is_refused(
    tmp_path: Path, path: str, body: bytes, says: str
) -> None:
    async with running(tmp_path) as site:
        found = await site.problem("POST", path, 409, body)
        assert says in found["detail"]
        assert not site.node.asked


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/commands/init", b""),
        ("/commands/init", b'{"from": 7}'),
        ("/commands/init", b'{"from": "paris", "force": true}'),
        ("/commands/resync", b'{"node": "paris", "full": "yes"}'),
        ("/commands/force-primary", b'{"yes": true}'),
        ("/commands/force-secondary", b'{"without_arbiter": true}'),
        ("/commands/swap", b'{"to": "lyon"}'),
        ("/commands/swap", b"{"),
        ("/commands/swap", b"\xff"),
        ("/commands/swap", b"[]"),
        ("/commands/swap?wait_s=-1", b""),
        ("/commands/swap?wait_s=nan", b""),
        ("/commands/swap?wait_s=1e9", b""),
        ("/commands/swap?wait_s=soon", b""),
    ],
)
async def test_a_wrong_request_does_nothing(tmp_path: Path, path: str, body: bytes) -> None:
    async with running(tmp_path) as site:
        await site.problem("POST", path, 400, body)
        assert not site.node.asked


async def test_what_is_unknown_is_404_and_the_wrong_method_405(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        await site.problem("GET", "/nothing", 404)
        await site.problem("POST", "/commands/explode", 404)
        await site.problem("GET", "/operations/swap-1", 404)
        await site.problem("GET", "/commands/swap", 405)
        await site.problem("DELETE", "/status", 405)
        await site.problem("GET", "/history?limit=0", 400)
        await site.problem("GET", "/events?only=everything", 400)
        assert not site.node.asked


async def test_history_is_the_latest_events(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.node.past = [FakeEvent(epoch=number) for number in range(5)]
        found: Any = (await site.ask("GET", "/history?limit=2")).json()
        assert [each["epoch"] for each in found["events"]] == [3, 4]
        assert found["events"][0] == {
            "schema": 1,
            "kind": "note",
            "at": "2023-11-14T22:13:20.000Z",
            "node": "paris",
            "epoch": 3,
            "role": "PRIM",
            "from_role": None,
            "rule": "won-alone",
            "text": "for a test",
        }


async def test_a_history_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.node.faulty["history"] = LocalUsageError("the node does not run")
        found = await site.problem("GET", "/history", 409)
        assert found["detail"] == "the node does not run"


async def test_the_stream_tells_every_event_and_ends_with_the_node(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        url = "http://node/api/v1/events?only=event"
        async with open_stream("GET", url, deadline_s=9, unix_path=str(site.path)) as stream:
            site.node.tell(FakeEvent(epoch=8))
            site.node.tell(FakeGap(3))
            site.node.tell(FakeEvent(epoch=12))
            site.node.end()
            seen = []
            while (event := await stream.receive_event()) is not None:
                assert event.name == "event"
                seen.append(json.loads(event.data))
        assert [each.get("epoch", each.get("missed")) for each in seen] == [8, 3, 12]
        assert seen[1] == {"schema": 1, "kind": "gap", "missed": 3}


async def test_the_stream_tells_a_status_once_for_each_change(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        url = "http://node/api/v1/events"
        async with open_stream("GET", url, deadline_s=9, unix_path=str(site.path)) as stream:
            first = await stream.receive_event()
            site.node.tell(FakeEvent())
            happened = await stream.receive_event()
            site.node.shown = document("ALONE", colour="orange")
            site.node.tell(FakeEvent())
            second = await stream.receive_event()
            third = await stream.receive_event()
        assert first is not None
        assert json.loads(first.data)["role"] == "PRIM"
        assert happened is not None
        assert happened.name == "event", "the unchanged status was told again"
        assert {second and second.name, third and third.name} == {"status", "event"}


async def test_a_silent_stream_shows_that_it_lives(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Else a client that has left would hold its place for ever."""
    body = event_stream(FakeNode(), only="event").body
    assert not isinstance(body, bytes)
    pieces = [await anext(body) for _ in range(3)]
    assert pieces[1:] == [b": still here\n\n"] * 2
    assert trio.current_time() <= 2 * SILENT_LOOKS_MAX + 3
    await body.aclose()


async def test_operations_are_bounded() -> None:
    async with trio.open_nursery() as nursery:
        operations = Operations()
        await nursery.start(operations.run)
        gate = trio.Event()

        async def stay() -> str:
            await gate.wait()
            return ""

        begun = [operations.begin("swap", stay) for _ in range(RUNNING_MAX)]
        assert None not in begun
        assert operations.begin("swap", stay) is None
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(REMEMBERED_MAX + 10):
            assert operations.begin("swap", stay) is not None
            await trio.testing.wait_all_tasks_blocked()
        assert len(operations._known) <= REMEMBERED_MAX + 1
        assert begun[0] is not None
        assert operations.get(begun[0].id) is None
        nursery.cancel_scope.cancel()


async def test_a_second_node_cannot_take_the_socket(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(LocalUsageError, match="another process listens"):
            await Site(tmp_path).api.serve()


def test_a_socket_with_too_long_a_path_is_refused() -> None:
    with pytest.raises(LocalUsageError, match="shorter state_dir"):
        socket_path("/" + "x" * 100)
    assert len(str(socket_path("/" + "x" * 92))) == 108 - 1
