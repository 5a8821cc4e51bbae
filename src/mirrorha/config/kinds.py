"""The kinds of arbiter, check, switch, fencer and notification, and the options that each takes.

The options' names are the arguments of the classes that carry them out, so that
`[[check]] kind = "tcp", port = 8080` is `mirrorha.checks.Tcp(port=8080)`. A duration's option
ends in `_s` in Python and not in TOML. Defaults are those classes' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias, final

import attrs

from mirrorha.config import forms
from mirrorha.config.durations import format_duration
from mirrorha.config.forms import Form


@final
@attrs.frozen(kw_only=True)
class Option:
    """One option of a kind.

    Attributes:
        form: what its value looks like.
        required: whether the kind cannot do without it.
        by_node: it is a table with a value for every node, and stays one.
    """

    form: Form
    required: bool = False
    by_node: bool = False


Kinds: TypeAlias = Mapping[str, Mapping[str, Option]]


def _must(form: Form) -> Option:
    return Option(form=form, required=True)


def _may(form: Form) -> Option:
    return Option(form=form)


_TEXT: Final = forms.text()
_REGION: Final = _may(forms.text("an AWS region, such as 'eu-west-3'", pattern=r"[a-z0-9-]{1,32}"))
_ENDPOINT: Final = _may(forms.URL)

#: A virtual IP lapses by itself so long, in seconds, after it was last renewed. A default that two
#: places need: the class, and the check that it is renewed often enough.
LAPSE_S: Final = 15.0

ARBITER_KINDS: Final[Kinds] = {
    "witness": {"address": _must(forms.HOST_PORT)},
    "s3": {
        "bucket": _must(forms.text("the name of a bucket", pattern=r"[a-z0-9][a-z0-9.-]{1,62}")),
        "key": _may(_TEXT),
        "region": _REGION,
        "endpoint": _ENDPOINT,
    },
    "dynamodb": {
        "table": _must(forms.text("the name of a table", pattern=r"[A-Za-z0-9_.-]{3,255}")),
        "key": _may(_TEXT),
        "region": _REGION,
        "endpoint": _ENDPOINT,
    },
    "etcd": {
        "endpoints": _must(forms.items("a list of URLs, at least one", forms.URL, at_least=1)),
        "key": _may(_TEXT),
        "ca_file": _may(forms.PATH),
        "cert_file": _may(forms.PATH),
        "key_file": _may(forms.PATH),
        "user": _may(_TEXT),
        "password_file": _may(forms.PATH),
    },
    "local": {"path": _must(forms.PATH)},
}

CHECK_KINDS: Final[Kinds] = {
    "tcp": {"port": _must(forms.PORT), "host": _may(forms.HOST)},
    "http": {
        "url": _must(forms.URL),
        "status": _may(forms.integer(100, 599)),
        "contains": _may(_TEXT),
        "connect_to": _may(forms.HOST),
        "ca_file": _may(forms.PATH),
        "verify": _may(forms.BOOLEAN),
    },
    "process": {
        "pid_file": _may(forms.PATH),
        "program": _may(_TEXT),
        "command_line": _may(_TEXT),
        "unit": _may(forms.UNIT),
    },
    "command": {"command": _must(forms.COMMAND)},
    "disk": {
        "path": _must(forms.PATH),
        "free_percent_min": _may(forms.integer(0, 99)),
        "write": _may(forms.BOOLEAN),
    },
    "interface": {"interface": _must(forms.INTERFACE)},
    "ping": {"address": _must(forms.IP)},
    "mount": {
        "path": _may(forms.PATH),
        "filesystem": _may(
            forms.text("a file system's type, such as 'ext4'", pattern=r"[A-Za-z0-9_.-]{1,64}")
        ),
    },
}

SWITCH_KINDS: Final[Kinds] = {
    "virtual_ip": {
        "address": _must(forms.NETWORK_ADDRESS),
        "interface": _must(forms.INTERFACE),
        "detect": _may(forms.duration(0, 10)),
        "lapse": _may(forms.duration(2, 3600)),
    },
    "aws_route": {
        "route_tables": _must(
            forms.items("a list of route tables' ids, at least one", _TEXT, at_least=1)
        ),
        "destination": _must(forms.NETWORK_ADDRESS),
        "region": _REGION,
        "endpoint": _ENDPOINT,
    },
    "aws_address": {"address": _must(forms.IP), "region": _REGION, "endpoint": _ENDPOINT},
    "aws_elastic_ip": {
        "allocation_id": _must(_TEXT),
        "region": _REGION,
        "endpoint": _ENDPOINT,
    },
    "aws_route53": {
        "zone_id": _must(_TEXT),
        "name": _must(forms.text("a DNS name", pattern=r"[A-Za-z0-9*_.-]{1,253}")),
        "address": _must(forms.IP),
        "ttl": _may(forms.duration(1, 86_400)),
        "endpoint": _ENDPOINT,
    },
    "command": {
        "engage": _must(forms.COMMAND),
        "disengage": _must(forms.COMMAND),
        "status": _must(forms.COMMAND),
    },
}

FENCER_KINDS: Final[Kinds] = {
    "command": {"command": _must(forms.COMMAND)},
    "aws": {
        # Each node stops the other's instance, so both have to know both.
        "instances": Option(
            form=forms.text("an instance's id, such as 'i-0abc'", pattern=r"i-[0-9a-f]{2,32}"),
            required=True,
            by_node=True,
        ),
        "region": _REGION,
        "endpoint": _ENDPOINT,
    },
}

NOTIFY_KINDS: Final[Kinds] = {
    "command": {"command": _must(forms.COMMAND)},
    "webhook": {"url": _must(forms.URL), "token_file": _may(forms.PATH)},
}


def python_name(key: str, form: Form) -> str:
    """An option's or field's name in Python: durations end in their unit there."""
    return f"{key}_s" if form.to_toml is format_duration else key
