"""Contexts: several Kafka Connect clusters, by name; a mistyped one never means another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from downriver.exits import BadInput
from downriver.settings import load

TOML = """
[connect]
url = "http://here:8083"
[kafka]
bootstrap = "here:9092"

[contexts.staging]
overlay = "test"
[contexts.staging.connect]
url = "https://staging:8083"
username = "me"
[contexts.staging.kafka]
bootstrap = "staging:9092"
"""


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = tmp_path / "downriver.toml"
    path.write_text(TOML, encoding="utf-8")
    monkeypatch.setenv("DOWNRIVER_CONFIG", str(path))
    load.cache_clear()
    yield
    load.cache_clear()


def test_without_a_context_the_groups_themselves_are_meant() -> None:
    assert (load().connect.url, load().kafka.bootstrap, load().context) == ("http://here:8083", "here:9092", "")


def test_a_context_replaces_the_groups_that_it_names_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNRIVER_CONTEXTS__STAGING__CONNECT__PASSWORD", "hunter2")
    settings = load("staging")
    assert (settings.connect.url, settings.connect.username) == ("https://staging:8083", "me")
    assert settings.connect.password is not None
    assert settings.connect.password.get_secret_value() == "hunter2"
    assert settings.kafka.bootstrap == "staging:9092"
    assert settings.postgres == load("").postgres
    assert "hunter2" not in repr(settings)


def test_the_environment_may_choose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNRIVER_CONTEXT", "staging")
    assert load().connect.url == "https://staging:8083"
    load.cache_clear()
    assert load("").connect.url == "http://here:8083"


def test_a_context_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(BadInput, match=r"context 'prod': there is none in .*; there are: staging"):
        load("prod")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[contexts.prod.kafka]\nbootstrap = "a:1"', "contexts.prod.connect"),
        ("[contexts.prod.connect]\ntimeout_s = 1", "connect.url is missing"),
        ('[contexts.prod.connect]\nurl = "http://a"\nurk = "b"', "contexts.prod.connect.urk"),
    ],
)
def test_a_context_is_checked_whole(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "downriver.toml").write_text(TOML + text, encoding="utf-8")
    with pytest.raises(BadInput, match=told):
        load()
