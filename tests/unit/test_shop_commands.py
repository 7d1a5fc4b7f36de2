"""`downriver shop` and `downriver workload`: what the commands decide before they ask a server."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from typer import Typer
from typer.testing import CliRunner

from downriver.settings import Settings, with_local_addresses
from shop.commands import Size, app, capture_password
from shop.sample.fill import SIZES
from shop.workload.commands import workload


def settings(**postgres: object) -> Settings:
    made = Settings()
    return with_local_addresses(made.model_copy(update={"postgres": made.postgres.model_copy(update=dict(postgres))}))


def test_the_setting_is_the_capture_password() -> None:
    assert capture_password(settings(capture_password=SecretStr("given"))).get_secret_value() == "given"


@pytest.mark.parametrize("elsewhere", [{"host": "db.example.com"}, {"port": 5432}])
def test_a_database_of_ones_own_gets_no_password_made_up(elsewhere: dict[str, object]) -> None:
    assert capture_password(settings(capture_password=SecretStr(""), **elsewhere)).get_secret_value() == ""


def test_every_size_has_its_number() -> None:
    assert {size.value: SIZES[size] for size in Size} == {"empty": 0, "1": 1, "100": 100, "10k": 10_000, "1m": 10**6}


@pytest.mark.parametrize(
    "arguments", [["fill"], ["fill", "--size", "7"], ["fill", "--size", "1", "--seed", "-1"], ["migrate", "--too", "1"]]
)
def test_wrong_arguments_end_with_the_code_of_bad_input(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--seconds", "-1"], ["-o", "xml"]])
def test_a_workload_of_nothing_is_refused(arguments: list[str]) -> None:
    alone = Typer()
    alone.command()(workload)
    assert CliRunner().invoke(alone, arguments).exit_code == 2
