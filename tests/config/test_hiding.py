"""No secret is shown: not of a configuration, not in what was logged."""

from __future__ import annotations

import pytest

from mirrorha.config.hiding import HIDDEN, hide, hide_document, hide_value, secrets_in


@pytest.mark.parametrize(
    "text",
    [
        "psql password=S3CRET host=db",
        "PGPASSWORD=S3CRET psql",
        'api_key: "S3CRET"',
        '{"token": "S3CRET"}',
        "--password S3CRET --user me",
        "--auth-token=S3CRET",
        "Authorization: Bearer S3CRET",
        "https://me:S3CRET@db.example/x",
        "https://S3CRET@db.example/x",
        "GET https://alerts.example/hook?key=S3CRET",
        "-----BEGIN EC PRIVATE KEY-----\nS3CRET\n-----END EC PRIVATE KEY-----",
        "-----BEGIN MIRRORHA HEARTBEAT KEY-----\nS3CRET",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert "S3CRET" not in hide(text)
    assert "hidden" in hide(text)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.1.10:9500 refused",
        'token_file = "/etc/mirrorha/token"',
        "https://alerts.example/health",
        "keys expire in 3 days",
        "passed",
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert hide(text) == text


def test_known_ones_are_hidden_wherever_they_stand() -> None:
    assert hide("a swordfish here, swordfishes", ["sword", "swordfish"]) == (
        f"a {HIDDEN} here, {HIDDEN}es"
    )


DOCUMENT = {
    "cluster": {"name": "orders", "isolation": ["tcp://10.0.3.1:443"]},
    "service": {
        "start": ["/opt/start", "--password", "S3CRET-1", "--level=3"],
        "stop": ["/bin/sh", "-c", "TOKEN=S3CRET-2 stop"],
        "environment": ["PLAIN=S3CRET-3", "B=S3CRET-4"],
    },
    "check": [{"kind": "http", "url": "https://u:S3CRET-5@x.example/health?q=S3CRET-6"}],
    "notify": [
        {"kind": "webhook", "url": {"paris": "https://h.example/S3CRET-7", "lyon": "http://h/a"}}
    ],
    "arbiter": {"kind": "etcd", "endpoints": ["https://S3CRET-8@etcd.example:2379"]},
    "password": "S3CRET-9",
    "secret_table": {"my_token": "S3CRET-0"},
}


def test_a_document_keeps_what_is_no_secret() -> None:
    hidden = hide_document(DOCUMENT)
    assert "S3CRET" not in str(hidden)
    assert hidden["cluster"] == DOCUMENT["cluster"]
    assert hidden["service"]["environment"] == [f"PLAIN={HIDDEN}", f"B={HIDDEN}"]
    assert hidden["service"]["start"] == ["/opt/start", "--password", HIDDEN, "--level=3"]
    assert hidden["notify"][0]["url"]["paris"] == f"https://h.example/{HIDDEN}"


def test_what_is_hidden_is_known_word_by_word() -> None:
    found = set(secrets_in(DOCUMENT))
    assert {f"S3CRET-{number}" for number in (1, 2, 3, 4, 5, 7, 8, 0)} <= found
    assert "q=S3CRET-6" in found
    assert "orders" not in found


def test_a_value_of_the_wrong_type_is_hidden_where_secrets_are() -> None:
    assert hide_value("service", "environment", "TOKEN=S3CRET") == HIDDEN
    assert "S3CRET" not in str(hide_value("notify", "url", ["https://h.example/S3CRET"]))
