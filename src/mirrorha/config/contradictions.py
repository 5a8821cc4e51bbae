"""What cannot be true together. Each rule says both values and why; nothing is ever clamped."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import attrs

from mirrorha.config import forms
from mirrorha.config.durations import format_duration
from mirrorha.config.findings import Finding, Where

if TYPE_CHECKING:
    from mirrorha.config.model import ClusterConfig, NodeConfig

# An isolation check may take two seconds; the next is asked half a second and a tick after it.
_ANSWER_S: Final = 2.6
# A machine that lost its power closes nothing: the session is dropped when what was proposed to it
# is not answered.
_DROP_S: Final = 2.1
# Two lost beats in a row are routine; three are news.
BEATS_PER_TIMEOUT: Final = 3


def find(config: ClusterConfig) -> Iterator[Finding]:
    """Everything that contradicts something else, once each value by itself is right."""
    for rule in _RULES:
        yield from rule(config)


def authority(split_brain: str | None, *, has_arbiter: bool) -> Iterator[Finding]:
    """Exactly one of them decides who may write."""
    where = ("cluster", "split_brain")
    if has_arbiter and split_brain is not None:
        text = (
            f"'{split_brain}' beside an arbiter: the arbiter alone decides who may write, "
            "so remove one of the two"
        )
        yield Finding(where, text, (("arbiter",),))
    if not has_arbiter and split_brain is None:
        text = (
            "expected 'consistent' or 'available', for there is no [arbiter]; it is missing. "
            "'consistent' freezes when the peer is lost, 'available' goes on and can split"
        )
        yield Finding(where, text, (("arbiter",),))


# Nodes -----------------------------------------------------------------------------------------


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """As `parse_ip`, with ::ffff:1.2.3.4 taken for 1.2.3.4."""
    ip = forms.parse_ip(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def is_loopback(address: str) -> bool:
    """Whether it is an address that no other machine can reach."""
    ip = _ip(address)
    return address == "localhost" or (ip is not None and ip.is_loopback)


def _host_port(address: str) -> tuple[str, int]:
    """Split it; a host that nobody has, if it cannot be: its form was found wrong already."""
    try:
        return forms.parse_host_port(address)
    except ValueError:
        return "", 0


def on_one_machine(config: ClusterConfig) -> bool:
    """Whether all nodes have loopback addresses only: a demonstration, or tests."""
    return all(is_loopback(address) for node in config.nodes for address in node.addresses)


def _two_nodes(config: ClusterConfig) -> Iterator[Finding]:
    count = len(config.nodes)
    if count != 2:
        yield Finding(("node",), f"expected exactly two [[node]] tables, not {count}")
    names = [node.name for node in config.nodes]
    for index, name in enumerate(names):
        if name in names[:index]:
            first = ("node", names.index(name), "name")
            yield Finding(("node", index, "name"), f"'{name}' is the other node's name", (first,))


def _which_node(config: ClusterConfig) -> Iterator[Finding]:
    names = [node.name for node in config.nodes]
    for where, name in ((("node",), config.node), (("cluster", "preferred"), config.preferred)):
        if name is not None and name not in names:
            known = " and ".join(f"'{one}'" for one in names) or "none"
            text = f"there is no node '{name}'{forms.did_you_mean(name, names)}; the nodes: {known}"
            yield Finding(where, text)


def _addresses(config: ClusterConfig) -> Iterator[Finding]:
    for index, node in enumerate(config.nodes):
        ips = [_ip(address) for address in node.addresses]
        for at, ip in enumerate(ips):
            if ip is not None and ip in ips[:at]:
                place = ("node", index, "addresses", at)
                yield Finding(place, f"'{node.addresses[at]}' is listed twice")
    for (index_a, a), (index_b, b) in combinations(enumerate(config.nodes), 2):
        concerns: tuple[Where, ...] = (("node", index_a, "addresses"),)
        where: Where = ("node", index_b, "addresses")
        if _one_is_local(a, b):
            text = (
                f"{b.name} has {', '.join(b.addresses)} and {a.name} {', '.join(a.addresses)}: "
                "from a loopback address nothing else can be reached; both or neither"
            )
            yield Finding(where, text, concerns)
        yield from _shared_addresses(a, b, where, index_a)


def _one_is_local(a: NodeConfig, b: NodeConfig) -> bool:
    locals_of_a = [is_loopback(address) for address in a.addresses]
    locals_of_b = [is_loopback(address) for address in b.addresses]
    return len({*locals_of_a, *locals_of_b}) == 2


def _shared_addresses(
    a: NodeConfig, b: NodeConfig, where: Where, index_a: int
) -> Iterator[Finding]:
    of_a = {_ip(address) for address in a.addresses}
    for address in b.addresses:
        if _ip(address) is None or _ip(address) not in of_a:
            continue
        if not is_loopback(address):
            text = f"'{address}' is also an address of {a.name}; each node needs its own"
            yield Finding(where, text, (("node", index_a, "addresses"),))
        elif a.port == b.port:
            text = (
                f"{a.name} and {b.name} share '{address}', and both have port {a.port}; "
                "on one machine they need different ports"
            )
            concerns = (where, ("node", index_a, "addresses"), ("node", index_a, "port"))
            yield Finding((*where[:2], "port"), text, concerns)


def _listeners(config: ClusterConfig) -> Iterator[Finding]:
    """Two things of one machine cannot listen at the same place."""
    for index, node in enumerate(config.nodes):
        host, port = _host_port(node.api)
        if port == node.port and (_ip(host) in map(_ip, node.addresses) or _ip(host) is None):
            text = f"'{node.api}' is where the node's sessions listen (port = {node.port})"
            yield Finding(("node", index, "api"), text, (("node", index, "port"),))
        if config.probe is not None and config.node in (None, node.name):
            yield from _probe_listener(config.probe.port, node, index)
    if on_one_machine(config):
        for (_, a), (index, b) in combinations(enumerate(config.nodes), 2):
            if a.api == b.api:
                text = f"'{b.api}' is also the api of {a.name}, on the same machine"
                yield Finding(("node", index, "api"), text)


def _probe_listener(port: int, node: NodeConfig, index: int) -> Iterator[Finding]:
    _, api_port = _host_port(node.api)
    for key, taken in (("port", node.port), ("api", api_port)):
        if port == taken:
            text = f"{port} is also used by {node.name}'s {key}; the probe needs a port of its own"
            yield Finding(("probe", "port"), text, (("node", index, key),))


# Times -----------------------------------------------------------------------------------------


def _times(config: ClusterConfig) -> Iterator[Finding]:
    pulse_s, timeout_s = config.heartbeat.pulse_s, config.heartbeat.timeout_s
    pulse, timeout = ("heartbeat", "pulse"), ("heartbeat", "timeout")
    timing = config.timing
    takeover_s = timeout_s + timing.takeover_delay_s + timing.fence_delay_s
    proof = ""
    if config.split_brain == "available":
        takeover_s += isolation_row_s(pulse_s)
        proof = f" + {format_duration(isolation_row_s(pulse_s))} for the isolation checks"
    takeover_places = (timeout, ("timing", "takeover_delay"), ("timing", "fence_delay"))
    rules: tuple[tuple[float, float, Where, tuple[Where, ...], str], ...] = (
        (
            timeout_s,
            BEATS_PER_TIMEOUT * pulse_s,
            timeout,
            (pulse,),
            f"{BEATS_PER_TIMEOUT} times pulse ({format_duration(pulse_s)}): "
            "two lost beats in a row are routine",
        ),
        (
            timing.wait_peer_s,
            timeout_s,
            ("timing", "wait_peer"),
            (timeout,),
            "heartbeat.timeout: a starting node must listen at least as long as it takes "
            "to call a silent peer lost",
        ),
        (
            timing.freeze_max_s,
            takeover_s,
            ("timing", "freeze_max"),
            takeover_places,
            f"heartbeat.timeout + takeover_delay + fence_delay{proof}: writes would fail before "
            "anybody can decide who goes on",
        ),
        (
            timing.freeze_max_s,
            timing.peer_slow_max_s,
            ("timing", "freeze_max"),
            (("timing", "peer_slow_max"),),
            "peer_slow_max: a slow peer must be excluded before the writes it holds up fail",
        ),
    )
    for value_s, least_s, where, concerns, why in rules:
        if value_s < least_s:
            text = f"'{format_duration(value_s)}' is less than '{format_duration(least_s)}', {why}"
            yield Finding(where, text, concerns)


def isolation_row_s(pulse_s: float) -> float:
    """How long after the timeout the answers may take that let a node go on alone.

    Either three of them, once there is no session any more, or the first of all, which is asked
    once two beats are missing, and one more after as long as the timeout; see
    `mirrorha.core.evidence`.
    """
    return max(_DROP_S + 3 * _ANSWER_S, 2 * pulse_s + 2 * _ANSWER_S)


def _checks(config: ClusterConfig) -> Iterator[Finding]:
    for index, check in enumerate(config.checks):
        where = ("check", index)
        if check.timeout_s is not None and check.timeout_s > check.every_s:
            text = (
                f"'{format_duration(check.timeout_s)}' is more than every = "
                f"'{format_duration(check.every_s)}': a check would still run when it is due again"
            )
            yield Finding((*where, "timeout"), text, ((*where, "every"),))
        named = {"program", "pid_file"} & check.options.keys()
        if check.kind == "process" and len(named) != 1:
            text = (
                f"a process is found by 'program' or by 'pid_file'; {len(named)} of them are given"
            )
            yield Finding(where, text)


# Authority and reachability --------------------------------------------------------------------


def _choices(config: ClusterConfig) -> Iterator[Finding]:
    if config.link == "plain" and not config.trusted_network:
        text = (
            "'plain' lets whoever is on the way between the nodes read and change the data; "
            "it needs trusted_network = true beside it"
        )
        yield Finding(("cluster", "link"), text, (("cluster", "trusted_network"),))
    if config.split_brain == "available" and not config.isolation:
        text = (
            "expected at least one isolation check, for split_brain = 'available' goes on "
            "alone only where these answer; there is none"
        )
        yield Finding(("cluster", "isolation"), text, (("cluster", "split_brain"),))
    if config.preferred is not None and not config.failover:
        text = (
            f"'{config.preferred}' with failover = false: the service cannot return by itself "
            "and never move by itself"
        )
        yield Finding(("cluster", "preferred"), text, (("cluster", "failover"),))
    if bool(config.service.start) != bool(config.service.stop):
        given, lacking = ("start", "stop") if config.service.start else ("stop", "start")
        text = f"expected a command, for {given} has one: what is started must be stopped"
        yield Finding(("service", lacking), text, (("service", given),))


def _node_ips(config: ClusterConfig) -> dict[object, str]:
    return {
        _ip(address): node.name
        for node in config.nodes
        for address in node.addresses
        if _ip(address) is not None
    }


def _isolation(config: ClusterConfig) -> Iterator[Finding]:
    owners = _node_ips(config)
    for index, isolation in enumerate(config.isolation):
        try:
            _, host, _ = forms.parse_isolation(isolation)
        except ValueError:
            continue
        owner = owners.get(_ip(host))
        if owner is not None:
            text = (
                f"'{isolation}' is an address of {owner}: neither a node's own answer nor its "
                "peer's tells whether it is cut off"
            )
            yield Finding(("cluster", "isolation", index), text, (("node",),))


def _arbiter(config: ClusterConfig) -> Iterator[Finding]:
    if config.arbiter is None:
        return
    if config.arbiter.kind == "local" and not on_one_machine(config):
        addresses = ", ".join(address for node in config.nodes for address in node.addresses)
        text = (
            f"'local' with nodes at {addresses}: a file is one place for both only on one "
            "machine, with loopback addresses"
        )
        yield Finding(("arbiter", "kind"), text)
    if config.arbiter.kind == "witness" and "address" in config.arbiter.options:
        yield from _witness(config, config.arbiter.options["address"])


def _witness(config: ClusterConfig, address: str) -> Iterator[Finding]:
    host, port = _host_port(address)
    where = ("arbiter", "address")
    owner = _node_ips(config).get(_ip(host))
    is_demo = is_loopback(host) and on_one_machine(config)
    if owner is not None and not is_demo:
        text = (
            f"'{address}' is an address of {owner}: a witness there is lost together with that "
            "node; it belongs on a third machine"
        )
        yield Finding(where, text)
    elif is_loopback(host) and not is_demo:
        text = f"'{address}' is a loopback address: each node would ask a witness of its own"
        yield Finding(where, text)
    for node in config.nodes:
        at_node = is_demo and _ip(host) in map(_ip, node.addresses)
        if at_node and port == node.port:
            yield Finding(where, f"'{address}' is where node {node.name} listens")


def _switches(config: ClusterConfig) -> Iterator[Finding]:
    owners = _node_ips(config)
    for index, switch in enumerate(config.switches):
        address = str(switch.options.get("address", ""))
        owner = owners.get(_ip(address.partition("/")[0]))
        if switch.kind in ("virtual_ip", "aws_address") and owner is not None:
            text = f"'{address}' is {owner}'s own address; clients need one that moves"
            yield Finding(("switch", index, "address"), text)


def _fencers(config: ClusterConfig) -> Iterator[Finding]:
    names = {node.name for node in config.nodes}
    for index, fencer in enumerate(config.fencers):
        instances = fencer.options.get("instances")
        if fencer.kind == "aws" and instances is not None and set(instances) != names:
            text = (
                f"expected one instance for each of {', '.join(sorted(names))}, "
                f"not for {', '.join(sorted(instances)) or 'none'}"
            )
            yield Finding(("fencer", index, "instances"), text)


# Directories -----------------------------------------------------------------------------------


def _directories(config: ClusterConfig) -> Iterator[Finding]:
    """On each node, no volume may hold another, the node's state or its keys."""
    places: dict[str, list[tuple[Where, str, str]]] = {node.name: [] for node in config.nodes}
    for index, volume in enumerate(config.volumes):
        for node in config.nodes:
            is_mine = node.name == (config.node or config.nodes[0].name)
            path = volume.path if is_mine else volume.path_at_peer
            places[node.name].append((("volume", index, "path"), path, "volume"))
    if len(places) != len(config.nodes):
        return  # two nodes of one name cannot be told apart
    for index, node in enumerate(config.nodes):
        places[node.name].append((("node", index, "state_dir"), node.state_dir, "state_dir"))
        places[node.name].append((("cluster", "keys"), config.keys, "keys"))
    overlaps: dict[Finding, list[str]] = {}
    for name, of_node in places.items():
        for a, b in combinations(of_node, 2):
            for finding in _overlap(a, b):
                overlaps.setdefault(finding, []).append(name)
    for finding, names in overlaps.items():
        on = "" if len(names) == len(places) else f" on {', '.join(names)}"
        yield attrs.evolve(finding, text=f"{finding.text}{on}; keep them apart")
    if on_one_machine(config) and len(config.nodes) == 2:
        yield from _shared_directories(*places.values())


def _shared_directories(
    of_one: list[tuple[Where, str, str]], of_other: list[tuple[Where, str, str]]
) -> Iterator[Finding]:
    """Two nodes of one machine may share their keys, for each has a file of its own there."""
    for a, b in product(of_one, of_other):
        if "keys" not in (a[2], b[2]):
            for finding in _overlap(a, b):
                text = f"{finding.text} of the other node, on the same machine; keep them apart"
                yield attrs.evolve(finding, text=text)


def _overlap(a: tuple[Where, str, str], b: tuple[Where, str, str]) -> Iterator[Finding]:
    """Whether two directories, one of them a volume or both a node's state, share files."""
    where_a, path_a, what_a = a
    where_b, path_b, what_b = b
    is_same_state = what_a == what_b == "state_dir" and path_a == path_b
    if "volume" not in (what_a, what_b) and not is_same_state:
        return
    if path_a == path_b:
        relation = "is the same as"
    elif PurePosixPath(path_b).is_relative_to(path_a):
        relation = "lies inside"
    elif PurePosixPath(path_a).is_relative_to(path_b):
        relation = "holds"
    else:
        return
    yield Finding(where_b, f"'{path_b}' {relation} the {what_a} '{path_a}'", (where_a,))


_RULES: Final[tuple[Callable[[ClusterConfig], Iterator[Finding]], ...]] = (
    _two_nodes,
    _which_node,
    _addresses,
    _listeners,
    _times,
    _checks,
    _choices,
    _isolation,
    _arbiter,
    _switches,
    _fencers,
    _directories,
)
