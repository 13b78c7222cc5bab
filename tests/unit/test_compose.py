# docker-compose.yml, Dockerfile and deploy/ are read here as data and held against what the launcher does: a role that one
# of them starts and the other forgets, a secret in the wrong hands, a port open to the world.
from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from flashsale.contract.wire import WEBHOOK_PATH
from flashsale.settings import ADMIN, PASSWORD, PREFIXES, REPOSITORY, TABLE, Settings
from flashsale.stack.roles import GATEWAYS, MIGRATE, ROLE_BY_NAME, ROLES, SEED, DatabaseRole, OneShot
from flashsale.stack.running import (
    SERVICE_ORDER,
    Seat,
    Urls,
    admin_links,
    gateway_variable,
    one_shot_environment,
    payment_links,
    role_environment,
)
from flashsale.stack.services import OTHER_ROLES, OWNER_ROLE
from flashsale.stack.state import Instance
from flashsale.stack.supervisor import ProcessSpec
from loadbalancer.config import Config
from tests.patience import PATIENCE_SECONDS

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
HOST_ENVIRONMENT = REPOSITORY / "deploy" / "compose.env"

BALANCER = "loadbalancer"
ONE_SHOTS: dict[str, OneShot] = {shot.name: shot for shot in (MIGRATE, SEED)}
# A role that is started only when somebody asks for it has no container.
STARTED = [role for role in ROLES if getattr(Settings.load({}), role.count)]
OURS = sorted({*(role.name for role in STARTED), *ONE_SHOTS})
LONG_RUNNING = sorted(SERVICES.keys() - ONE_SHOTS)
PUBLISHED = {BALANCER, ADMIN, "postgres", "redis", *GATEWAYS.values()}
# The one form of interpolation that Compose v1 and v2 and a shell read alike.
VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^${}]*)\}")
CONFIDENTIAL = {setting.variable for setting in TABLE if setting.secret or setting.name.endswith("_url")}
MOVED = {
    "POSTGRES_OWNER_PASSWORD": "another-owners-password",
    "REDIS_PASSWORD": "another-password-of-redis",
    "POSTGRES_PORT": "5999",
    "REDIS_PORT": "5998",
    "GATEWAY_CARD_PORT": "5997",
    "GATEWAY_TRANSFER_PORT": "5996",
}
USER_OF = {
    DatabaseRole.APP: OTHER_ROLES["app"],
    DatabaseRole.AUDITOR: OTHER_ROLES["auditor"],
    DatabaseRole.ADMIN: OTHER_ROLES["admin"],
    DatabaseRole.OWNER: OWNER_ROLE,
}


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def defaults() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for text in (*texts(COMPOSE), HOST_ENVIRONMENT.read_text(encoding="utf-8")):
        for name, default in VARIABLE.findall(text):
            found.setdefault(name, set()).add(default)
    return found


def resolved(value: Any, environ: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda match: environ.get(match[1]) or match[2], str(value))


def environment_of(service: str, **environ: str) -> dict[str, str]:
    return {name: resolved(value, environ) for name, value in SERVICES[service].get("environment", {}).items()}


def secrets() -> dict[str, str]:
    return {name: next(iter(words)) for name, words in defaults().items() if re.search(r"PASSWORD|SECRET", name)}


def host_environment(**environ: str) -> dict[str, str]:
    script = f"set -a; . {shlex.quote(str(HOST_ENVIRONMENT))}; env -0"
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=environ, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line.startswith(PREFIXES))


def instructions() -> list[str]:
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


# --- the topology


def test_there_is_a_service_for_every_store_role_and_one_shot() -> None:
    assert set(SERVICES) == {*SERVICE_ORDER, *OURS, BALANCER}


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_what_the_launcher_runs(name: str) -> None:
    arguments = ONE_SHOTS[name].arguments if name in ONE_SHOTS else ("-m", ROLE_BY_NAME[name].module)
    assert SERVICES[name]["command"] == ["python", *arguments]


def test_the_balancer_knows_every_server_of_shoppers() -> None:
    servers = environment_of(BALANCER)["LB_SERVERS"].split(",")
    assert servers == [f"{role.name}-0={role.name}:8080" for role in ROLES if role.serves]


@pytest.mark.parametrize("name", OURS)
def test_a_process_waits_for_what_it_needs(name: str) -> None:
    needs = ONE_SHOTS[name].needs if name in ONE_SHOTS else ROLE_BY_NAME[name].needs
    met, asked = set(), [name]
    while asked:
        for other in SERVICES[asked.pop()].get("depends_on", {}):
            if other not in met:
                met.add(other)
                asked.append(other)
    assert needs <= met
    assert "migrate" in met or "postgres" not in needs or name == "migrate"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_waits_for_health_and_a_one_shot_for_success(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
        assert how == {"condition": expected}, other


def test_payments_and_the_gateways_find_each_other() -> None:
    for method, role in GATEWAYS.items():
        assert environment_of(role)["FLASH_WEBHOOK_URL"] == f"http://payments:8080{WEBHOOK_PATH}"
        assert environment_of(role)["FLASH_GATEWAY_METHOD"] == method
        assert environment_of("payments")[gateway_variable(method)] == f"http://{role}:8080"


@pytest.mark.parametrize("name", [*OURS, BALANCER])
def test_a_process_shares_a_network_with_whatever_it_calls_and_the_gateway_with_no_store(name: str) -> None:
    networks = set(SERVICES[name]["networks"])
    assert networks <= set(COMPOSE["networks"])
    for variable, value in environment_of(name).items():
        for host in re.findall(r"(?:^|[@/,=])([a-z_]+):[0-9]+", value):
            assert networks & set(SERVICES[host]["networks"]), (variable, host)
    if name in {*GATEWAYS.values(), BALANCER}:
        assert not any(networks & set(SERVICES[store]["networks"]) for store in SERVICE_ORDER)


# --- settings and secrets


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("given", [{}, {"FLASH_BATCH_MAX": "64"}], ids=["defaults", "given"])
def test_an_environment_is_settings_that_the_process_accepts(name: str, given: dict[str, str]) -> None:
    environment = environment_of(name, **given)
    assert all(variable.startswith("FLASH_") for variable in environment)
    settings = Settings.load(environment)  # refuses what it does not know
    assert settings.auth == "jwt"  # it listens beyond the container's loopback
    assert settings.role == name
    assert settings.batch_max == int(given.get("FLASH_BATCH_MAX", "256"))


def test_a_setting_that_the_launcher_hands_on_is_handed_on_here() -> None:
    # Somebody would set it in .env, where it would silently do nothing.
    told = {variable for name in OURS for variable in environment_of(name)} | {"FLASH_HOME", "FLASH_APT"}
    of_the_topology = {"FLASH_BACKEND", "FLASH_INSTANCE", "FLASH_ADMIN_PORT"} | {
        f"FLASH_{role.count.upper()}" for role in ROLES
    }
    of_the_demonstration = {"FLASH_SHOPPERS", "FLASH_VIEWERS", "FLASH_ARRIVAL_SECONDS"}
    refused_here = {"FLASH_CRASH_AT"}  # a container listens beyond loopback
    assert {setting.variable for setting in TABLE} == told | of_the_topology | of_the_demonstration | refused_here


@pytest.mark.parametrize("name", [*SERVICE_ORDER, BALANCER])
def test_a_stranger_is_told_no_setting_of_the_engine(name: str) -> None:
    assert not any(variable.startswith("FLASH_") for variable in environment_of(name))


def test_only_the_balancer_has_the_balancers_settings() -> None:
    assert {name for name in SERVICES if any(v.startswith("LB_") for v in environment_of(name))} == {BALANCER}
    config = Config.load(environment_of(BALANCER, LB_ALGORITHM="consistent_hash"))  # refuses what it does not know
    assert config.algorithm == "consistent_hash"
    assert all(variable.startswith("LB_") for variable in environment_of(BALANCER))


@pytest.mark.parametrize("name", OURS)
def test_a_process_gets_the_secrets_and_addresses_that_the_launcher_gives_it(name: str, tmp_path: Path) -> None:
    # The launcher's own environments are the law; only the names are compared, and as whom PostgreSQL is entered.
    settings = Settings.load(
        {"FLASH_HOME": str(tmp_path), "FLASH_JWT_SECRET": "x" * 32, "FLASH_RECEIPT_KEYS": "y" * 32}
    )
    role_url = "postgresql://a:b@h/d"
    urls = Urls("", "postgresql://h/d", role_url, role_url, role_url, role_url, "redis://h", "amqp://h")
    if name in ONE_SHOTS:
        expected, database = one_shot_environment(ONE_SHOTS[name], settings, urls), ONE_SHOTS[name].database
    else:
        seats = [Seat(role, 0, 1, 2) for role in STARTED]
        links = payment_links(seats, settings, Instance(tmp_path, "up")) | {
            ADMIN: admin_links(seats, settings, tmp_path)
        }
        expected = role_environment(ROLE_BY_NAME[name], settings, urls) | links.get(name, {})
        database = ROLE_BY_NAME[name].database
    environment = environment_of(name)
    assert environment.keys() & CONFIDENTIAL == expected.keys() & CONFIDENTIAL
    if "FLASH_POSTGRES_URL" in environment:
        assert urlsplit(environment["FLASH_POSTGRES_URL"]).username == USER_OF[database]


def test_the_admin_page_is_reached_at_its_published_port_and_by_nobody_else() -> None:
    for given, port in (({}, "7080"), ({"FLASH_ADMIN_PORT": "7099"}, "7099")):
        assert environment_of(ADMIN, **given)["FLASH_ADMIN_ORIGIN"] == f"http://127.0.0.1:{port}"
        assert resolved(SERVICES[ADMIN]["ports"][0], given) == f"127.0.0.1:{port}:8080"
    own = set(SERVICES[ADMIN]["networks"]) - {"stores"}
    assert [name for name in SERVICES if own & set(SERVICES[name]["networks"])] == [ADMIN]


def test_the_operations_page_asks_every_process_but_the_banks_and_the_balancer_where_it_listens() -> None:
    settings = Settings.load(environment_of(ADMIN))
    asked = {role.name for role in STARTED} - set(GATEWAYS.values())
    assert settings.targets == {(role, 0): f"http://{role}:9080" for role in asked}
    assert settings.auditor_url == settings.targets["auditor", 0]
    assert {environment_of(name)["FLASH_OPS_HOST"] for name in asked} == {"0.0.0.0"}
    assert {environment_of(name)["FLASH_OPS_HOST"] for name in GATEWAYS.values()} == {"127.0.0.1"}
    assert not [port for service in SERVICES.values() for port in service.get("ports", []) if port.endswith(":9080")]
    path = environment_of(BALANCER)["LB_ADMIN_SOCKET"]
    assert settings.balancer_socket == path
    [volume] = [each for each in SERVICES[BALANCER]["volumes"] if path.startswith(each.split(":")[1] + "/")]
    assert volume in SERVICES[ADMIN]["volumes"]
    assert volume.split(":")[1] in DOCKERFILE, "else the volume is root's"


def test_every_process_is_told_the_same_address_of_a_store() -> None:
    # A keeper and a server with two spellings of one Redis would be taken for two shops.
    for variable in ("FLASH_REDIS_URL", "FLASH_RABBITMQ_URL"):
        assert len({environment_of(name).get(variable) for name in OURS} - {None}) == 1


def test_only_one_form_of_interpolation_is_used() -> None:
    for text in texts(COMPOSE):
        assert "$" not in VARIABLE.sub("", text).replace("$$", ""), text


def test_a_variable_has_one_default_wherever_it_is_used() -> None:
    assert {name: words for name, words in defaults().items() if len(words) != 1} == {}


def test_a_variable_may_stand_in_the_env_file_that_the_launcher_reads_too() -> None:
    known = {setting.variable for setting in TABLE}
    assert {name for name in defaults() if name.startswith("FLASH_")} <= known


def test_every_default_secret_says_that_it_is_none_and_is_acceptable() -> None:
    assert len(secrets()) == 10
    for word in secrets().values():
        assert word.startswith("demonstration-only-")
        assert PASSWORD.parse(word) == word
    assert len(set(secrets().values())) == len(secrets())


def test_every_secret_can_be_replaced_everywhere() -> None:
    others = {name: f"another-word-for-{name.lower().replace('_', '-')}-0" for name in secrets()}
    for name in SERVICES:
        assert "demonstration-only" not in " ".join(environment_of(name, **others).values()), name
    assert "demonstration-only" not in " ".join(host_environment(**others).values())
    # and a password stands nowhere but in an environment
    for service in SERVICES.values():
        rest = {key: value for key, value in service.items() if key != "environment"}
        assert not [text for text in texts(rest) for variable, _ in VARIABLE.findall(text) if variable in others]


@pytest.mark.parametrize("given", [{}, MOVED], ids=["defaults", "moved"])
def test_the_environment_for_this_machine_leads_to_the_published_stores(given: dict[str, str]) -> None:
    environment = host_environment(**given)
    settings = Settings.load(environment)
    ports = {name: resolved(SERVICES[name]["ports"][0], given).split(":")[1] for name in PUBLISHED}
    migrate, upkeep = environment_of("migrate", **given), environment_of("upkeep", **given)
    inside = migrate["FLASH_POSTGRES_URL"]
    assert settings.postgres_url == inside.replace("@postgres:5432/", f"@127.0.0.1:{ports['postgres']}/")
    assert settings.redis_url == upkeep["FLASH_REDIS_URL"].replace("@redis:6379/", f"@127.0.0.1:{ports['redis']}/")
    gateways = {method: f"http://127.0.0.1:{ports[role]}" for method, role in GATEWAYS.items()}
    assert settings.gateway_urls == gateways
    assert settings.jwt_secret == upkeep["FLASH_JWT_SECRET"]
    assert settings.postgres_app_password == migrate["FLASH_POSTGRES_APP_PASSWORD"]
    assert settings.postgres_auditor_password == migrate["FLASH_POSTGRES_AUDITOR_PASSWORD"]
    assert settings.postgres_operator_password == migrate["FLASH_POSTGRES_OPERATOR_PASSWORD"]
    assert settings.postgres_admin_password == migrate["FLASH_POSTGRES_ADMIN_PASSWORD"]
    assert urlsplit(upkeep["FLASH_POSTGRES_URL"]).password == settings.postgres_app_password


# --- what a container may do


def test_every_published_port_is_on_loopback_and_can_be_moved() -> None:
    for name, service in SERVICES.items():
        assert bool(service.get("ports")) == (name in PUBLISHED), name
        assert service.get("network_mode") is None, name
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-[1-9][0-9]+\}:[0-9]+", port), port


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    if name in SERVICE_ORDER:
        # an init of another user than its child's needs a further capability to stop it
        assert "init" not in service
        # what an official image needs to become its own user
        assert set(service["cap_add"]) <= {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    else:
        assert service["init"] is True
        assert "cap_add" not in service
        assert "user" not in service
        assert service["read_only"] is True


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_log_is_bounded(name: str) -> None:
    assert set(SERVICES[name]["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_what_runs_on_is_watched_restarted_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "retries", "start_period"} == set(service["healthcheck"])
    if name == BALANCER:
        drains_s = Config.load(environment_of(BALANCER)).grace
        assert float(service["stop_grace_period"].removesuffix("s")) > drains_s
    launcher_gives = next(field.default for field in fields(ProcessSpec) if field.name == "stop_within_s")
    assert isinstance(launcher_gives, float)
    assert float(service["stop_grace_period"].removesuffix("s")) >= launcher_gives


@pytest.mark.parametrize("name", [*(role.name for role in STARTED), BALANCER])
def test_readiness_is_asked_at_the_operations_port(name: str) -> None:
    environment = environment_of(name)
    port = environment.get("FLASH_OPS_PORT") or environment.get("LB_OPS_PORT")
    assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "ready", port]


@pytest.mark.parametrize("name", sorted(ONE_SHOTS))
def test_a_one_shot_is_not_repeated(name: str) -> None:
    assert SERVICES[name]["restart"] == "no"
    assert "healthcheck" not in SERVICES[name]


def test_what_must_survive_is_on_a_volume_of_its_own() -> None:
    named = {
        name: [source for source, _, _ in (v.partition(":") for v in service.get("volumes", [])) if source[0] != "."]
        for name, service in SERVICES.items()
    }
    socket = "balancer"  # nothing of it survives
    assert {name: volumes for name, volumes in named.items() if volumes} == {
        name: [name] for name in (*SERVICE_ORDER, *GATEWAYS.values())
    } | {ADMIN: [ADMIN, socket], BALANCER: [socket]}
    assert set(COMPOSE["volumes"]) == {*SERVICE_ORDER, *GATEWAYS.values(), ADMIN, socket}
    assert environment_of(ADMIN)["FLASH_ADMIN_USERS"].startswith(SERVICES[ADMIN]["volumes"][0].partition(":")[2] + "/")
    for role in GATEWAYS.values():
        journal = environment_of(role)["FLASH_GATEWAY_JOURNAL"]
        assert journal.startswith(SERVICES[role]["volumes"][0].partition(":")[2] + "/")
    assert SERVICES["rabbitmq"]["hostname"]  # a container's own name is new each time, and with it the data's directory


# --- the image


def test_all_of_ours_are_one_image_and_the_others_are_pinned() -> None:
    for name, service in SERVICES.items():
        if name in SERVICE_ORDER:
            assert re.fullmatch(r"[a-z]+:[0-9][a-z0-9.-]*", service["image"]), name
            assert "build" not in service
        else:
            assert (service["image"], service["build"]) == (SERVICES["migrate"]["image"], "."), name


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    users = [line.split()[1] for line in instructions() if line.startswith("USER")]
    assert users
    assert re.fullmatch(r"[1-9][0-9]{3,}:[1-9][0-9]{3,}", users[-1])


def test_the_image_needs_no_buildkit_and_pins_what_it_installs() -> None:
    assert "syntax=" not in DOCKERFILE
    for line in instructions():
        word, _, rest = line.partition(" ")
        assert re.fullmatch(r"[A-Z]+", word), line  # the body of a heredoc is no instruction
        assert "<<" not in rest, line
        assert not (word in {"RUN", "COPY", "ADD"} and rest.lstrip().startswith("--")), line
        if word == "FROM":
            assert re.fullmatch(r"[a-z]+:[0-9][a-z0-9.-]*", rest), line
        if "pip install" in rest:
            assert "--require-hashes" in rest
            assert "://" not in rest


def test_nothing_gets_into_the_image_by_being_forgotten() -> None:
    text = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8")
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        "!requirements.lock",
        "!src",
        "!loadbalancer",
        "!deploy/ready",
        "!deploy/start",
    }
