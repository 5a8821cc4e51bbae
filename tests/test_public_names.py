"""`import mirrorha` gives every public name, and imports nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mirrorha


@pytest.mark.parametrize("name", mirrorha.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(mirrorha, name) is not None
    assert name in dir(mirrorha)


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Klaster'"):
        mirrorha.Klaster  # noqa: B018


#: Modules that cost much, and that nobody needs who only names things.
NOT_FOR_IMPORT = ("trio", "attrs", "mirrorha.volume", "boto3", "botocore")
#: What a node needs only once it runs, or never, beside what putting it together needs.
NOT_FOR_CLUSTER = (
    "boto3",
    "botocore",
    "cryptography",
    "sqlite3",
    "rich",
    "click",
    "hypothesis",
    "pytest",
    "asyncio",
    "http.client",
    "urllib.request",
    "multiprocessing",
    "concurrent.futures.process",
    "mirrorha.api",
    "mirrorha.cli",
    "mirrorha.testing",
    "mirrorha.arbiters.witness",
    "mirrorha.cluster.runtime",
    "mirrorha.net.keys",
    "mirrorha.volume.engine",
    "mirrorha.volume.fuse",
    "mirrorha.volume.local_disk",
    "mirrorha.volume.resync",
)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import mirrorha", NOT_FOR_IMPORT),
        ("from mirrorha import Checker, Cluster, HealthProbe, Replicator", NOT_FOR_CLUSTER),
    ],
)
def test_an_import_brings_nothing_that_it_does_not_need(
    statement: str, unwanted: tuple[str, ...]
) -> None:
    """What it costs in time and memory is measured by `benchmarks/bench_import.py`."""
    code = f"{statement}; import sys; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
