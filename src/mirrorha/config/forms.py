"""What a single value may look like: how it is read from TOML, judged, and written back.

A `Form` is data. The classes of the configuration hang one on each field, and the same form
serves the TOML reader, the check of objects made in Python, and the writer.
"""

from __future__ import annotations

import difflib
import ipaddress
import posixpath
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, final

import attrs

from mirrorha.config.durations import format_duration, parse_duration
from mirrorha.config.findings import Finding, Where
from mirrorha.config.patterns import pattern_flaw
from mirrorha.config.rates import format_rate, parse_rate

TEXT_CHARS_MAX: Final = 1024
ITEMS_MAX: Final = 64
SHOWN_CHARS_MAX: Final = 60

UNFIT: Final = object()  # what `from_toml` returns for a value that cannot be one


def _same(value: Any) -> Any:
    return value


def _nothing(_: object) -> str:
    return ""


@final
@attrs.frozen(kw_only=True)
class Form:
    """One kind of value.

    Attributes:
        expected: what it should be, as it ends the sentence "expected …".
        types: the Python types it may have (a bool is never taken for a number).
        accepts: whether a value of that type will do.
        from_toml: TOML's value to Python's, or UNFIT. Of a list only the items' is used.
        to_toml: Python's value to TOML's.
        hint: what to add to the message about this TOML value; may be empty.
        filler: a value of the right type, to go on with after a wrong one.
        item: the form of each item, if it is a list.
    """

    expected: str
    types: tuple[type, ...] = (str,)
    accepts: Callable[[Any], bool] = lambda _: True
    from_toml: Callable[[Any], Any] = _same
    to_toml: Callable[[Any], Any] = _same
    hint: Callable[[object], str] = _nothing
    filler: object = ""
    item: Form | None = None

    def findings(self, value: object, where: Where) -> Iterable[Finding]:
        """Judge a Python value."""
        if not self._has_type(value):
            yield self.refuse(value, where, is_type=True)
        elif not self.accepts(value):
            yield self.refuse(value, where)
        elif self.item is not None and isinstance(value, tuple):
            for index, item in enumerate(value):
                yield from self.item.findings(item, (*where, index))

    def refuse(self, value: object, where: Where, *, is_type: bool = False) -> Finding:
        """The finding that `value` is not of this form."""
        text = f"expected {self.expected}, not {shown(value)}{self.hint(value)}"
        return Finding(where, text, is_type=is_type)

    def _has_type(self, value: object) -> bool:
        if isinstance(value, bool) and bool not in self.types:
            return False
        return isinstance(value, self.types)


def shown(value: object) -> str:
    """A value as the operator wrote it, roughly, and of bounded length."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(item) for item in value[:ITEMS_MAX]) + "]"
    elif isinstance(value, Mapping):
        text = "a table"
    else:
        text = repr(value[:TEXT_CHARS_MAX] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` if something known is close, else nothing."""
    if not isinstance(word, str):
        return ""
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


# Plain values ----------------------------------------------------------------------------------


def text(expected: str = "text", *, pattern: str | None = None) -> Form:
    """One line of text, not empty; all of it matches `pattern` if that is given."""
    compiled = re.compile(pattern) if pattern else None

    def accepts(value: str) -> bool:
        return _is_line(value) and (compiled is None or bool(compiled.fullmatch(value)))

    return Form(expected=expected, accepts=accepts)


def integer(low: int, high: int) -> Form:
    return Form(
        expected=f"a whole number from {low} to {high}",
        types=(int,),
        accepts=lambda value: low <= value <= high,
        filler=low,
    )


def duration(low_s: float, high_s: float) -> Form:
    """Seconds in Python, text with a unit in TOML. The filler is the lower bound."""

    def from_toml(raw: object) -> object:
        try:
            return parse_duration(raw) if isinstance(raw, str) else UNFIT
        except ValueError:
            return UNFIT

    def hint(raw: object) -> str:
        is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
        return f' (with its unit: "{raw}s"?)' if is_number else ""

    span = f'from "{format_duration(low_s)}" to "{format_duration(high_s)}"'
    return Form(
        expected=f"a duration {span}",
        types=(int, float),
        accepts=lambda value: low_s <= value <= high_s,
        from_toml=from_toml,
        to_toml=format_duration,
        hint=hint,
        filler=low_s,
    )


def rate(low_bytes_per_s: int, high_bytes_per_s: int) -> Form:
    """Bytes a second in Python, text with a unit in TOML. The filler is the lower bound."""

    def from_toml(raw: object) -> object:
        try:
            return parse_rate(raw) if isinstance(raw, str) else UNFIT
        except ValueError:
            return UNFIT

    span = f'from "{format_rate(low_bytes_per_s)}" to "{format_rate(high_bytes_per_s)}"'
    return Form(
        expected=f"a rate {span}",
        types=(int,),
        accepts=lambda value: low_bytes_per_s <= value <= high_bytes_per_s,
        from_toml=from_toml,
        to_toml=format_rate,
        filler=low_bytes_per_s,
    )


def choice(*words: str) -> Form:
    listed = ", ".join(f"'{word}'" for word in words)
    return Form(
        expected=f"one of {listed}" if len(words) > 1 else listed,
        accepts=lambda value: value in words,
        hint=lambda value: did_you_mean(value, words),
        filler=words[0],
    )


def items(expected: str, item: Form, *, at_least: int = 0) -> Form:
    """A list in TOML, a tuple in Python."""
    return Form(
        expected=expected,
        types=(tuple,),
        accepts=lambda value: at_least <= len(value) <= ITEMS_MAX,
        to_toml=lambda value: [item.to_toml(one) for one in value],
        filler=(),
        item=item,
    )


# What values mean ------------------------------------------------------------------------------


def _is_line(value: str) -> bool:
    return 0 < len(value) <= TEXT_CHARS_MAX and value.isprintable()


def _is_absolute(value: str) -> bool:
    # normpath keeps a double slash at the start, for POSIX gives that a meaning of its own.
    is_plain = posixpath.normpath(value) == value and not value.startswith("//")
    return _is_line(value) and value.startswith("/") and value != "/" and is_plain


def parse_ip(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `value` is, or None."""
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        return None


def _is_node_address(value: str) -> bool:
    address = parse_ip(value)
    return address is not None and not address.is_unspecified and not address.is_multicast


_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def _is_host(value: str) -> bool:
    if parse_ip(value) is not None:
        return True
    # Digits and dots alone are a mistyped address, not a name.
    return bool(_HOST.fullmatch(value)) and not re.fullmatch(r"[0-9.]+", value)


def parse_host_port(value: str) -> tuple[str, int]:
    """Split `10.0.3.5:9600`, `[::1]:9600` or `host.example:9600`.

    Raises:
        ValueError: it is not a host and a port.
    """
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        is_host = ":" in host and parse_ip(host) is not None
    else:
        is_host = ":" not in host and _is_host(host)
    if not (colon and is_host and re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= PORT_MAX):
        raise ValueError(f"not a host and a port: {value!r}")
    return host, int(port)


def parse_isolation(value: str) -> tuple[str, str, int | None]:
    """Split an isolation check into scheme, host and port: `("icmp", "10.0.3.1", None)`.

    Raises:
        ValueError: it is neither `icmp://HOST` nor `tcp://HOST:PORT`.
    """
    scheme, _, rest = value.partition("://")
    if scheme == "tcp":
        return scheme, *parse_host_port(rest)
    if scheme == "icmp":
        host = rest[1:-1] if rest.startswith("[") and rest.endswith("]") else rest
        if _is_host(host):
            return scheme, host, None
    raise ValueError(f"not an isolation check: {value!r}")


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def accepts(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return accepts


def _is_url(value: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(value)
        is_good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return _is_line(value) and parts.scheme in ("http", "https") and is_good


def _is_pattern(value: str) -> bool:
    return _is_line(value) and not pattern_flaw(value)


def _pattern_hint(value: object) -> str:
    flaw = pattern_flaw(value) if isinstance(value, str) else ""
    return f": {flaw}" if flaw else ""


_VARIABLE: Final = re.compile(r"(?!MIRRORHA_)[A-Za-z_][A-Za-z0-9_]*=[^\0]*")

PORT_MAX: Final = 65_535

BOOLEAN: Final = Form(expected="true or false", types=(bool,), filler=False)
NAME: Final = text(
    "a name of lower-case letters, digits and '-', at most 32, not starting with '-'",
    pattern=r"[a-z0-9][a-z0-9-]{0,31}",
)
PATH: Final = Form(
    expected="an absolute path other than '/', without '..', '//' or a '/' at its end",
    accepts=_is_absolute,
)
PORT: Final = integer(1, PORT_MAX)
HOST: Final = Form(expected="a host name or an IP address", accepts=_is_host)
ADDRESS: Final = Form(
    expected="an IP address of the node (no name, for resolving one can block)",
    accepts=_is_node_address,
)
IP: Final = Form(expected="an IP address", accepts=lambda value: parse_ip(value) is not None)
NETWORK_ADDRESS: Final = Form(
    expected="an IP address with its prefix length, such as '10.0.1.100/24'",
    accepts=_parses(lambda value: ipaddress.ip_interface(value if "/" in value else "")),
)
HOST_PORT: Final = Form(
    expected="a host and a port, such as '10.0.3.5:9600' or '[::1]:9600'",
    accepts=_parses(parse_host_port),
)
ISOLATION: Final = Form(
    expected="'icmp://HOST' or 'tcp://HOST:PORT'", accepts=_parses(parse_isolation)
)
URL: Final = Form(expected="a URL of http or https", accepts=_is_url)
INTERFACE: Final = text("a network interface, such as 'eth0'", pattern=r"[^\s/]{1,15}")
PATTERN: Final = Form(
    expected="a pattern relative to the volume, such as 'tmp/**'",
    accepts=_is_pattern,
    hint=_pattern_hint,
)
ARGUMENT: Final = Form(
    expected="text without a NUL",
    accepts=lambda value: len(value) <= TEXT_CHARS_MAX and "\0" not in value,
)
COMMAND: Final = attrs.evolve(
    items("", ARGUMENT),
    expected='a command as a list, such as ["/opt/orders/start", "--fast"]',
    accepts=lambda value: 0 < len(value) <= ITEMS_MAX and value[0] != "",
)
VARIABLE: Final = Form(
    expected="'NAME=value', with a NAME of letters, digits and '_' that is not MIRRORHA_…",
    accepts=lambda value: bool(_VARIABLE.fullmatch(value)) and len(value) <= TEXT_CHARS_MAX,
)
USER: Final = text("the name of a user, such as 'postgres'", pattern=r"[A-Za-z_][\w.-]{0,31}\$?")
UNIT: Final = text(
    "the name of a systemd unit, such as 'postgresql'",
    pattern=r"[A-Za-z0-9:_.\\@][\w:.\\@-]{0,254}",
)
