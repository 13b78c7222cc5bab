# The role table, and what each process is told. The laws are about secrets: nobody gets one that its work does not need.
from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from flashsale.settings import ADMIN, TABLE, Settings
from flashsale.stack.checks import check_environment
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.lifecycle import DOWN_WITHIN_S
from flashsale.stack.processes import LOOPBACK, free_port, port_is_free
from flashsale.stack.roles import (
    AUDIT,
    AUDITOR,
    BALANCER,
    GATEWAYS,
    MIGRATE,
    ROLE_BY_NAME,
    ROLES,
    SEED,
    DatabaseRole,
    Role,
    roles_of,
    uses,
)
from flashsale.stack.running import (
    SERVICE_ORDER,
    SOCKET_PATH_CHARS_MAX,
    Seat,
    Urls,
    _balancer_spec,
    _Ports,
    _role_spec,
    one_shot_environment,
    role_environment,
)
from flashsale.stack.services import KINDS, OTHER_ROLES, OWNER_ROLE, READY_WITHIN_S
from flashsale.stream import wire as stream_wire
from loadbalancer.config import Config, ConfigError

URLS = Urls(
    postgres_superuser="postgresql://postgres:pw-super@127.0.0.1:1/postgres",
    postgres_owner=f"postgresql://{OWNER_ROLE}:pw-owner@127.0.0.1:1/flash",
    postgres_app=f"postgresql://{OTHER_ROLES['app']}:pw-app@127.0.0.1:1/flash",
    postgres_auditor=f"postgresql://{OTHER_ROLES['auditor']}:pw-auditor@127.0.0.1:1/flash",
    postgres_operator=f"postgresql://{OTHER_ROLES['operator']}:pw-operator@127.0.0.1:1/flash",
    postgres_admin=f"postgresql://{OTHER_ROLES['admin']}:pw-admin@127.0.0.1:1/flash",
    redis="redis://:pw-redis@127.0.0.1:2/0",
    rabbitmq="amqp://flash:pw-rabbit@127.0.0.1:3/%2F",
)


SEATS = (("asyncio_redis", 0), ("asyncio_redis", 1), ("gevent_rabbit", 0), ("upkeep", 0))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({"FLASH_HOME": str(tmp_path), "FLASH_BATCH_MAX": "64", "FLASH_AUTH": "off"})


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_whoever_waits_for_a_service_is_given_the_time_that_the_service_takes(role: Role, settings: Settings) -> None:
    # Killed beside RabbitMQ, a front waited for it 30 s, was stopped for that, and began anew when RabbitMQ was there.
    spec = _role_spec(Seat(role, 0, None, 1), settings, URLS, {})
    assert all(spec.ready_within_s > READY_WITHIN_S[name] for name in role.needs)


def test_the_table_is_consistent() -> None:
    assert len({role.name for role in ROLES}) == len(ROLES)
    assert set(SERVICE_ORDER) == set(KINDS)
    for role in ROLES:
        assert role.needs <= set(KINDS)
        assert role.count in {setting.name for setting in TABLE}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_process_gets_its_own_database_role_and_services_only(role: Role, settings: Settings) -> None:
    environment = role_environment(role, settings, URLS)
    assert environment.get("FLASH_POSTGRES_URL") == (URLS.postgres(role.database) if "postgres" in role.needs else None)
    assert role.database is {AUDITOR: DatabaseRole.AUDITOR, ADMIN: DatabaseRole.ADMIN}.get(role.name, DatabaseRole.APP)
    assert ("FLASH_JWT_SECRET" in environment) == (bool(role.needs) and role.database is DatabaseRole.APP)
    everything = " ".join(environment.values())
    others = {"super", "owner", "operator", "app", "auditor", "admin"} - {role.database.value}
    for secret in others:
        assert f"pw-{secret}" not in everything
    for service in ("redis", "rabbitmq"):
        assert (f"FLASH_{service.upper()}_URL" in environment) == (service in role.needs)


def test_given_settings_are_handed_on_and_defaults_are_not(settings: Settings) -> None:
    environment = role_environment(ROLES[0], settings, URLS)
    assert environment["FLASH_BATCH_MAX"] == "64"
    assert environment["FLASH_AUTH"] == "off"
    assert "FLASH_IN_FLIGHT_MAX" not in environment
    assert "FLASH_HOME" not in environment


def test_a_setting_changed_by_the_launcher_is_handed_on(settings: Settings) -> None:
    environment = role_environment(ROLES[0], replace(settings, hold_seconds=6), URLS)
    assert environment["FLASH_HOLD_SECONDS"] == "6"


def test_what_a_process_is_told_it_can_load(settings: Settings) -> None:
    for role in ROLES:
        loaded = Settings.load(role_environment(role, settings, URLS))
        assert loaded.role == role.name
        assert loaded.batch_max == 64


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_whoever_reads_receipts_learns_every_secret_that_may_have_signed_them(role: Role, settings: Settings) -> None:
    assert "FLASH_RECEIPT_KEYS" not in role_environment(role, settings, URLS)
    rotated = replace(settings, receipt_keys=f"{'x' * 32} {'y' * 32}")
    secrets = Settings.load(role_environment(role, rotated, URLS)).receipt_secrets
    assert secrets == (["x" * 32, "y" * 32] if role.serves else [])


def test_the_callers_environment_is_not_handed_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_SECRET", "hunter2")
    assert "CLOUD_SECRET" not in role_environment(ROLES[0], settings, URLS)


def test_only_migrate_learns_the_passwords_it_sets(settings: Settings) -> None:
    migrate = one_shot_environment(MIGRATE, settings, URLS)
    assert migrate["FLASH_POSTGRES_URL"] == URLS.postgres_owner
    assert migrate["FLASH_POSTGRES_APP_PASSWORD"] == "pw-app"
    assert migrate["FLASH_POSTGRES_AUDITOR_PASSWORD"] == "pw-auditor"
    assert migrate["FLASH_POSTGRES_OPERATOR_PASSWORD"] == "pw-operator"
    assert migrate["FLASH_POSTGRES_ADMIN_PASSWORD"] == "pw-admin"
    for shot in (SEED, AUDIT):
        environment = one_shot_environment(shot, settings, URLS)
        assert not [name for name in environment if name.endswith("_PASSWORD")]
        assert "FLASH_JWT_SECRET" not in environment
    assert one_shot_environment(AUDIT, settings, URLS)["FLASH_POSTGRES_URL"] == URLS.postgres_auditor
    assert URLS.postgres(DatabaseRole.AUDITOR) == URLS.postgres_auditor


def test_ports_start_where_the_settings_say_and_a_taken_one_names_its_variable(settings: Settings) -> None:
    first = free_port()
    fixed = Settings.load({"FLASH_HOME": str(settings.home), "FLASH_PORT": str(first), "FLASH_OPS_PORT": "0"})
    assert _Ports(fixed, fixed=True).traffic() == first
    assert port_is_free("127.0.0.1", _Ports(fixed, fixed=True).operations())
    with socket.create_server(("127.0.0.1", first)), pytest.raises(StackError, match="FLASH_PORT") as caught:
        _Ports(fixed, fixed=True).traffic()
    assert caught.value.code is Exit.USAGE


def test_operations_ports_are_chosen_on_loopback_wherever_the_shop_listens(settings: Settings) -> None:
    first = free_port()
    elsewhere = Settings.load(
        {"FLASH_HOME": str(settings.home), "FLASH_HOST": "127.0.0.2", "FLASH_OPS_PORT": str(first)}
    )
    with socket.create_server(("127.0.0.2", first)):
        assert _Ports(elsewhere, fixed=True).operations() == first
    with socket.create_server((LOOPBACK, first)), pytest.raises(StackError, match="FLASH_OPS_PORT"):
        _Ports(elsewhere, fixed=True).operations()


def test_the_tests_see_their_own_settings_and_nobody_elses() -> None:
    caller = {
        "FLASH_TEST_SEARCH_DEPTH": "8",
        "FLASH_TEST_REDIS_URL": "redis://elsewhere:6379/0",
        "FLASH_STOCK": "7",
        "LB_PORT": "1",
        "EDITOR": "ed",
    }
    environment = check_environment(caller, [URLS], {"FLASH_TEST_CHROMIUM": "/usr/bin/chromium"})
    assert environment["FLASH_TEST_SEARCH_DEPTH"] == "8"
    assert environment["FLASH_TEST_REDIS_URL"] == URLS.redis
    assert environment["EDITOR"] == "ed"
    assert environment["FLASH_TEST_CHROMIUM"] == "/usr/bin/chromium"
    assert not {"FLASH_STOCK", "LB_PORT"} & set(environment)


def test_a_backend_needs_its_own_servers_and_what_all_need() -> None:
    of_all = {"upkeep", "payments", "auditor", "stream", *GATEWAYS.values()}
    assert set(roles_of("asyncio_redis")) == {"asyncio_redis"} | of_all
    assert set(roles_of("gevent_rabbit")) == {"gevent_rabbit", "checkout"} | of_all
    assert set(roles_of("mixed")) == {role.name for role in ROLES} - {ADMIN}  # which `up` starts, for people
    assert not uses("asyncio_redis", "checkout")
    assert uses("asyncio_redis", "postgres")
    assert uses("gevent_rabbit", BALANCER.name)


def test_a_balancer_is_told_its_servers_and_no_secret_and_has_its_grace(settings: Settings) -> None:
    given = Settings.load({"FLASH_HOME": str(settings.home), "LB_ALGORITHM": "least_connections", "LB_GRACE": "20"})
    seats = [Seat(ROLE_BY_NAME[name], index, 8000 + n, 9000 + n) for n, (name, index) in enumerate(SEATS)]
    spec = _balancer_spec(Seat(BALANCER, 0, 80, 90), given, "asyncio_redis", seats, Path("/run/lb"))
    assert spec.environment["LB_SERVERS"] == "asyncio_redis-0=127.0.0.1:8000,asyncio_redis-1=127.0.0.1:8001"
    assert spec.environment["LB_ALGORITHM"] == "least_connections"
    viewers = Seat(ROLE_BY_NAME["stream"], 0, 8009, 9009)
    beside = _balancer_spec(Seat(BALANCER, 0, 80, 90), given, "gevent_rabbit", [*seats, viewers], Path("/run/lb"))
    assert beside.environment["LB_SERVERS"] == (
        f"gevent_rabbit-0=127.0.0.1:8002,stream-0=127.0.0.1:8009{stream_wire.PATH}"
    )
    assert not [name for name in spec.environment if name.startswith("FLASH_")]
    assert spec.environment["LB_ADMIN_SOCKET"] == "/run/lb"
    assert spec.stop_within_s > 20
    forever = Settings.load({"FLASH_HOME": str(settings.home), "LB_GRACE": "3600"})
    deep = Path("/", "a" * 110)
    spec = _balancer_spec(Seat(BALANCER, 0, 80, 90), forever, "mixed", seats, deep)
    assert spec.stop_within_s < DOWN_WITHIN_S
    assert spec.environment["LB_ADMIN_SOCKET"] == ""  # rather none than no balancer
    Config.load({**spec.environment, "LB_ADMIN_SOCKET": "/" + "a" * (SOCKET_PATH_CHARS_MAX - 1)})
    with pytest.raises(ConfigError):
        Config.load({**spec.environment, "LB_ADMIN_SOCKET": "/" + "a" * SOCKET_PATH_CHARS_MAX})
