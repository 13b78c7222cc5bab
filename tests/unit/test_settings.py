# The settings table: what is refused, what wins, and that nothing fails silently.
from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from flashsale.settings import BALANCER_TABLE, TABLE, Settings, SettingsError, mask_url


def load(**environ: str) -> Settings:
    return Settings.load(environ)


def refused(environ: dict[str, str], dotenv: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ, dotenv)
    return caught.value.problems


def test_the_table_and_the_class_name_the_same_settings() -> None:
    assert [setting.name for setting in TABLE] == [
        f.name for f in fields(Settings) if f.name not in {"balancer", "balancer_file", "origins"}
    ]


def test_every_default_is_itself_allowed() -> None:
    for setting in TABLE:
        if setting.default != "":
            assert setting.kind.parse(str(setting.default)) == setting.default, setting.name


def test_nothing_given_is_the_defaults() -> None:
    settings = load()
    assert (settings.host, settings.port, settings.auth, settings.hold_seconds) == ("127.0.0.1", 8080, "jwt", 120)
    assert not settings.given("port")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FLASH_PORT", "65536"),
        ("FLASH_PORT", "-1"),
        ("FLASH_PORT", "8O80"),
        ("FLASH_PORT", "٨٠"),  # digits, but not the ones a port is written in
        ("FLASH_STOCK", "0"),
        ("FLASH_STOCK", "1.0"),
        ("FLASH_STOCK", " 5"),
        ("FLASH_BATCH_MAX", "1025"),
        ("FLASH_HOST", "example.org"),
        ("FLASH_AUTH", "none"),
        ("FLASH_LOG_LEVEL", "INFO"),
        ("FLASH_CRASH_AT", "upkeep.aplied"),
        ("FLASH_CRASH_AT", "upkeep.applied:0"),
        ("FLASH_CRASH_AT", "upkeep.applied:stop:2"),
        ("FLASH_JWT_SECRET", "too-short"),
        ("FLASH_RECEIPT_KEYS", "s" * 32 + " too-short"),
        ("FLASH_RECEIPT_KEYS", "s" * 32 + " "),
        ("FLASH_RECEIPT_KEYS", " ".join(["s" * 32] * 9)),
        ("FLASH_POSTGRES_URL", "mysql://there/flash"),
        ("FLASH_POSTGRES_URL", "postgresql:///flash"),
        ("FLASH_REDIS_URL", "redis://there:99999/0"),
        ("FLASH_POSTGRES_APP_PASSWORD", "quote'in-a-password"),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(variable: str, value: str) -> None:
    (problem,) = refused({variable: value})
    assert problem.startswith(f"{variable} (environment)")
    assert "allowed: " in problem


def test_all_problems_are_told_together() -> None:
    problems = refused({"FLASH_PORT": "x", "FLASH_STOCK": "0", "FLASH_SEDE": "1"})
    assert len(problems) == 3


def test_a_wrong_secret_is_not_repeated() -> None:
    (problem,) = refused({"FLASH_JWT_SECRET": "hunter2"})
    assert "hunter2" not in problem


def test_an_unknown_name_is_refused_and_the_near_one_suggested() -> None:
    (problem,) = refused({"FLASH_BUYERS_LIMIT": "3"})
    assert "did you mean FLASH_BUYER_LIMIT?" in problem
    (problem,) = refused({"LB_ZZZ": "1"})
    assert "./flash config" in problem


def test_other_peoples_names_are_theirs() -> None:
    load(FLASH_TEST_POSTGRES_URL="anything", FLASHLIGHT="on", PATH="/bin")


def test_an_empty_value_counts_as_not_given() -> None:
    assert load(FLASH_PORT="").port == 8080
    assert load(FLASH_PORT="").origins["port"] == "default"


def test_auth_off_stays_on_loopback() -> None:
    assert load(FLASH_AUTH="off", FLASH_HOST="::1").auth == "off"
    (problem,) = refused({"FLASH_AUTH": "off", "FLASH_HOST": "0.0.0.0"})
    assert "loopback" in problem


def test_the_admin_page_stays_on_loopback_unless_something_stands_in_front() -> None:
    assert load(FLASH_ROLE="admin", FLASH_HOST="::1").admin_origin == ""
    assert load(FLASH_ROLE="upkeep", FLASH_HOST="0.0.0.0").admin_origin == ""
    (problem,) = refused({"FLASH_ROLE": "admin", "FLASH_HOST": "0.0.0.0"})
    assert "FLASH_ADMIN_ORIGIN" in problem
    for origin in ("https://admin.example", "https://admin.example:8443", "http://127.0.0.1:7080", "http://[::1]:7080"):
        assert load(FLASH_ROLE="admin", FLASH_HOST="0.0.0.0", FLASH_ADMIN_ORIGIN=origin).admin_origin == origin
    for origin in ("http://admin.example", "https://admin.example/", "https://a b", "http://127.0.0.1", "*"):
        assert refused({"FLASH_ADMIN_ORIGIN": origin})


def test_a_crash_is_armed_for_tests_alone() -> None:
    assert load(FLASH_AUTH="off", FLASH_CRASH_AT="upkeep.applied:2:stop").crash_at == "upkeep.applied:2:stop"
    (problem,) = refused({"FLASH_CRASH_AT": "upkeep.applied"})
    assert problem.startswith("FLASH_CRASH_AT is 'upkeep.applied' while FLASH_AUTH is 'jwt'; allowed: ")
    problems = refused({"FLASH_CRASH_AT": "upkeep.applied", "FLASH_AUTH": "off", "FLASH_HOST": "0.0.0.0"})
    assert "loopback" in problems[0]


def test_the_environment_wins_over_the_file_over_the_default(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("# local\n\nFLASH_PORT=1111\nFLASH_STOCK='7'\nCOMPOSE_PROJECT_NAME=sale\n", encoding="utf-8")
    settings = Settings.load({"FLASH_PORT": "2222"}, dotenv)
    assert (settings.port, settings.stock, settings.seed) == (2222, 7, 1)
    assert [settings.origins[name] for name in ("port", "stock", "seed")] == ["environment", ".env", "default"]


def test_a_file_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    assert Settings.load({}, tmp_path / ".env").port == 8080


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FLASH_PORT = 1\n", "line 1"),
        ("export FLASH_PORT=1\n", "line 1"),
        ("FLASH_PORT=1 # first\n", "line 1"),
        ("FLASH_PORT=$OTHER\n", "line 1"),
        ("FLASH_PORT='1\n", "line 1"),
        ("FLASH_PORT=1\nFLASH_PORT=2\n", "line 2 sets FLASH_PORT a second time"),
        ("FLASH_PRT=1\n", "did you mean FLASH_PORT?"),
        ("FLASH_PORT=x\n", "FLASH_PORT (.env)"),
    ],
)
def test_a_file_that_could_be_read_two_ways_is_refused(tmp_path: Path, text: str, told: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(text, encoding="utf-8")
    assert any(told in problem for problem in refused({}, dotenv))


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused({}, dotenv)[0]
    dotenv.write_bytes(b"#" * 70_000)
    assert "larger" in refused({}, dotenv)[0]


def test_secrets_are_masked_wherever_they_are_shown() -> None:
    settings = load(
        FLASH_JWT_SECRET="s" * 40, FLASH_POSTGRES_URL="postgresql://ana:hunter2@db:5432/flash?sslmode=require"
    )
    shown = {setting.name: settings.shown(setting) for setting in TABLE}
    assert shown["jwt_secret"] == "***"
    assert shown["postgres_url"] == "postgresql://ana:***@db:5432/flash"
    assert "hunter2" not in repr(settings)
    assert "s" * 40 not in repr(settings)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:pw@127.0.0.1:1/0", "redis://:***@127.0.0.1:1/0"),
        ("redis://127.0.0.1", "redis://127.0.0.1"),
        ("amqp://ana@[::1]:5672/%2F", "amqp://ana@[::1]:5672/%2F"),
    ],
)
def test_a_masked_url_still_says_where(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_the_balancers_settings_are_checked_by_its_own_table_and_handed_on_as_written() -> None:
    settings = Settings.load({"LB_ALGORITHM": "consistent_hash", "LB_GRACE": ""})
    assert settings.balancer == {"LB_ALGORITHM": "consistent_hash"}
    assert settings.origins["LB_ALGORITHM"] == "environment"
    (problem,) = refused({"LB_ALGORITHM": "random"})
    assert (
        "LB_ALGORITHM (environment) is 'random'; allowed: round_robin | least_connections | consistent_hash | power_of_two"
        in problem
    )


def test_the_balancers_file_is_checked_too_and_left_to_the_balancer_to_read(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    path.write_text('algorithm = "least_connections"\nretries = 1\nport = 1\n', encoding="utf-8")
    settings = Settings.load({"LB_CONFIG": str(path), "LB_RETRIES": "3"})
    assert settings.balancer == {"LB_CONFIG": str(path), "LB_RETRIES": "3"}
    shown = {s.variable: (settings.balancer_text(s), settings.origins.get(s.variable)) for s in BALANCER_TABLE}
    assert shown["LB_ALGORITHM"] == ("least_connections", str(path))
    assert shown["LB_RETRIES"] == ("3", "environment")
    assert shown["LB_GRACE"] == ("15", None)
    path.write_text('algorithm = "random"\ngrease = 1\n', encoding="utf-8")
    unknown, wrong = refused({"LB_CONFIG": str(path)})
    assert unknown == f"{path}: grease is not a setting; did you mean grace?"
    assert wrong.startswith(f"{path}: algorithm is 'random'; allowed: round_robin")


@pytest.mark.parametrize("variable", ["LB_HOST", "LB_PORT", "LB_OPS_PORT", "LB_ADMIN_SOCKET", "LB_SERVERS"])
def test_what_the_launcher_decides_for_the_balancer_nobody_else_may(variable: str) -> None:
    (problem,) = refused({variable: "1"})
    assert problem.startswith(f"{variable} (environment) is decided by the launcher")
