"""Keeps secrets out of what is shown, told to the peer, or handed to somebody else.

What is a secret cannot be known, so more is hidden than is secret: every value of an environment,
what stands before the host and behind the `?` of a URL, the whole path of a webhook's, and what
follows a word such as "password". Whoever looks for a mistake still sees that something is there.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

HIDDEN: Final = "(hidden)"
#: What is shorter stands in too many words that are none.
SECRET_CHARS_MIN: Final = 4

_WORD: Final = (
    r"(?:passw(?:or)?d|passphrase|passwd|pwd|secret|token|api_?-?key|access_?-?key|private_?-?key|"
    r"credential|authorization)"
)
_NAMED: Final = re.compile(
    rf"(?P<name>[\w.-]*{_WORD}[\w.-]*)(?P<between>[\"']?\s*[=:]\s*[\"']?)(?P<value>[^\s\"',;&]+)",
    re.IGNORECASE,
)
_OPTION: Final = re.compile(
    rf"(?P<name>--?[\w-]*{_WORD}[\w-]*)(?P<between>[\"',]*\s+[\"']?)(?P<value>[^\s\"',]+)",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(
    r"(?P<name>\b(?:bearer|basic))(?P<between>\s+)(?P<value>[A-Za-z0-9._~+/=-]{6,})", re.IGNORECASE
)
_USERINFO: Final = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.IGNORECASE)
_QUERY: Final = re.compile(r"(?P<url>\b[a-z][a-z0-9+.-]*://[^\s?\"']+)\?[^\s\"']+", re.IGNORECASE)
_PEM: Final = re.compile(
    r"-----BEGIN (?P<what>[A-Z0-9 ]*KEY)-----.*?(?:-----END [A-Z0-9 ]*KEY-----|\Z)", re.DOTALL
)
_AWS: Final = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
_SECRET_NAME: Final = re.compile(_WORD, re.IGNORECASE)
#: The name of a file that holds a secret is none.
_NO_SECRET: Final = ("file", "path", "dir")


def hide(text: str, known: Iterable[str] = ()) -> str:
    """`text` without what looks like a secret, and without those that are `known`."""
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _PEM.sub(lambda match: f"{HIDDEN[:-1]} {match['what']})", text)
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<url>?{HIDDEN}", text)
    for pattern in (_BEARER, _OPTION, _NAMED):
        text = pattern.sub(_without_value, text)
    return _AWS.sub(HIDDEN, text)


def _without_value(match: re.Match[str]) -> str:
    if match["name"].lower().endswith(_NO_SECRET):
        return match[0]
    return f"{match['name']}{match['between']}{HIDDEN}"


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret."""
    return bool(_SECRET_NAME.search(name)) and not name.lower().endswith(_NO_SECRET)


def hide_value(table: str, key: str, value: Any) -> Any:
    """A value of a configuration, as in TOML, without secrets. `table`: such as "notify"."""
    rule = _RULES.get((table, key))
    if isinstance(value, Mapping):
        return {node: hide_value(table, key, each) for node, each in value.items()}
    if rule is not None:
        return rule(value)
    if isinstance(value, list | tuple):
        return _hide_words(list(value))
    return hide(value) if isinstance(value, str) else value


def hide_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """A whole file, as `tomllib` returns it, also of one that is wrong."""
    hidden: dict[str, Any] = {}
    for table, found in document.items():
        if isinstance(found, Mapping):
            hidden[table] = _hide_table(table, found)
        elif isinstance(found, list):
            hidden[table] = [
                _hide_table(table, each) if isinstance(each, Mapping) else HIDDEN for each in found
            ]
        else:
            hidden[table] = HIDDEN if is_secret_name(table) else hide_value("", table, found)
    return hidden


def _hide_table(table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: HIDDEN if is_secret_name(key) else hide_value(table, key, value)
        for key, value in values.items()
    }


def secrets_in(document: Mapping[str, Any]) -> Iterator[str]:
    """What of a file is hidden, word by word: to be hidden wherever else it may stand."""
    for table, found in document.items():
        parts = found if isinstance(found, list) else [found]
        for part in parts:
            for key, value in part.items() if isinstance(part, Mapping) else ():
                if is_secret_name(key):
                    yield from _long_enough(_texts(value))
                yield from _long_enough(_secrets_of(table, key, value))


def _secrets_of(table: str, key: str, value: Any) -> Iterator[str]:
    """The parts of a value that `hide_value` takes away."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _secrets_of(table, key, each)
    elif (table, key) == ("service", "environment"):
        for each in _texts(value):
            yield each.partition("=")[2]
    elif (table, key) == ("notify", "url"):
        for each in _texts(value):
            yield from _url_secrets(each, path_too=True)
    else:
        words = list(_texts(value))
        for before, word in zip(["", *words], words, strict=False):
            if _is_option(before):
                yield word
            yield from _url_secrets(word, path_too=False)
            for pattern in (_BEARER, _OPTION, _NAMED):
                yield from (
                    match["value"]
                    for match in pattern.finditer(word)
                    if not match["name"].lower().endswith(_NO_SECRET)
                )


def _url_secrets(text: str, *, path_too: bool) -> Iterator[str]:
    try:
        parts = urllib.parse.urlsplit(text)
        known = (parts.username, parts.password, parts.query, path_too and parts.path.strip("/"))
    except ValueError:
        return
    if parts.netloc:
        yield from (part for part in known if part)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _long_enough(found: Iterable[str]) -> Iterator[str]:
    return (each for each in found if len(each) >= SECRET_CHARS_MIN)


def _is_option(word: str) -> bool:
    return word.startswith("-") and "=" not in word and is_secret_name(word)


def _hide_words(words: list[Any]) -> list[Any]:
    """A list, such as a command: also the word that follows one such as `--password`."""
    hidden, before = [], ""
    for word in words:
        if not isinstance(word, str):
            hidden.append(hide_value("", "", word))
            continue
        hidden.append(HIDDEN if _is_option(before) else hide(word))
        before = word
    return hidden


def _hide_variables(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return HIDDEN
    return [f"{str(each).partition('=')[0]}={HIDDEN}" for each in value]


def _hide_url(value: Any) -> Any:
    try:
        parts = urllib.parse.urlsplit(str(value))
    except ValueError:
        return HIDDEN
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}/{HIDDEN}" if parts.path.strip("/") else hide(str(value))


_RULES: Final[Mapping[tuple[str, str], Callable[[Any], Any]]] = {
    ("service", "environment"): _hide_variables,
    ("notify", "url"): _hide_url,
}
