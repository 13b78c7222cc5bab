# Recognising our own processes, and keeping what the launcher remembers.
from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import SystemRandom
from urllib.parse import urlsplit

import pytest

from flashsale.settings import PASSWORD, Settings
from flashsale.stack import processes, services
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import Identity
from flashsale.stack.state import Instance, jwt_secret, write_private
from tests.patience import PATIENCE_SECONDS

WAITS = f"sys.stdout.flush(); time.sleep({PATIENCE_SECONDS})"
SLEEPER = f"import sys, time; sys.stdout.write('up'); {WAITS}"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
CHOOSER = f"import sys, time; from flashsale.stack.processes import free_port; sys.stdout.write(f'up{{free_port():5}}'); {WAITS}"


@contextlib.contextmanager
def started(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is up, and is killed however the test ends."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        try:
            assert read(child, 2) == b"up"
            yield child
        finally:
            child.kill()


def read(child: subprocess.Popen[bytes], count: int) -> bytes:
    assert child.stdout is not None
    return child.stdout.read(count)


@pytest.mark.parametrize(
    ("code", "grace_s", "number"),
    [(SLEEPER, PATIENCE_SECONDS, signal.SIGTERM), (STUBBORN, 0.5, signal.SIGKILL)],
)
def test_a_recorded_process_is_asked_then_killed(code: str, grace_s: float, number: signal.Signals) -> None:
    with started(code) as child:
        identity = Identity.of(child.pid)
        assert identity is not None
        assert processes.end([identity], grace_s=grace_s) == [identity]
        assert child.wait(PATIENCE_SECONDS) == -number
        assert not identity.alive


def test_a_pid_that_now_means_another_process_is_left_alone() -> None:
    with started(SLEEPER) as child:
        identity = Identity.of(child.pid)
        assert identity is not None
        stranger = Identity(child.pid, identity.started - 1)
        assert processes.end([stranger], grace_s=0.5) == []
        assert identity.alive


def test_a_pid_and_a_start_time_of_another_boot_mean_another_process(tmp_path: Path) -> None:
    with started(SLEEPER) as child:
        identity = Identity.of(child.pid)
        assert identity is not None
        assert Identity.recalled(json.loads(json.dumps(identity.record()))) == identity
        before_the_reboot = identity.record() | {"boot": "00000000-0000-0000-0000-000000000000"}
        unknown = {"pid": identity.pid, "started": identity.started}
        instance = Instance(tmp_path, "up")
        instance.create()
        instance.write({"supervisor": before_the_reboot, "processes": [before_the_reboot, unknown]})
        assert processes.end(instance.recorded, grace_s=0.5) == []
        assert instance.supervisor is not None
        assert not instance.supervisor.alive
        assert identity.alive


def test_a_free_port_is_free_and_outside_the_kernels_source_ports() -> None:
    port = processes.free_port()
    assert processes.port_is_free("127.0.0.1", port)
    assert port < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])


def test_a_port_that_another_launcher_chose_is_not_chosen_while_that_launcher_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with started(CHOOSER) as other:
        port = int(read(other, 5))
        monkeypatch.setattr(processes, "PORT_TRIES_MAX", 1)
        monkeypatch.setattr(SystemRandom, "randint", lambda *_: port)
        assert processes.port_is_free("127.0.0.1", port), "it is not listened on yet"
        with pytest.raises(StackError, match="no free port"):
            processes.free_port()
    assert processes.free_port() == port
    with pytest.raises(StackError, match="no free port"):
        processes.free_port()


def test_one_holder_at_a_time_and_the_refusal_names_it(tmp_path: Path) -> None:
    instance = Instance(tmp_path, "up")
    assert instance.holder() is None
    with instance.locked():
        assert instance.holder() == os.getpid()
        with pytest.raises(StackError, match=str(os.getpid())) as caught, Instance(tmp_path, "up").locked():
            pass
        assert caught.value.code is Exit.USAGE
    assert instance.holder() is None


def test_secrets_are_private_stable_and_different(tmp_path: Path) -> None:
    made = Instance(tmp_path, "up").passwords()
    assert Instance(tmp_path, "up").passwords() == made
    assert Instance(tmp_path, "demo").passwords() != made
    assert len(set(made.values())) == len(made)
    assert (tmp_path / "up" / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_the_token_secret_is_kept_unless_one_is_given(tmp_path: Path) -> None:
    settings = Settings.load({"FLASH_HOME": str(tmp_path)})
    secret = jwt_secret(settings)
    assert len(secret) >= 32
    assert jwt_secret(settings) == secret
    assert (tmp_path / "jwt_secret").stat().st_mode & 0o777 == 0o600
    given = Settings.load({"FLASH_HOME": str(tmp_path), "FLASH_JWT_SECRET": "g" * 32})
    assert jwt_secret(given) == "g" * 32


def test_a_damaged_state_is_told_with_its_fix(tmp_path: Path) -> None:
    instance = Instance(tmp_path, "up")
    instance.create()
    write_private(tmp_path / "up" / "state.json", "{")
    with pytest.raises(StackError, match="clean"):
        instance.read()
    instance.write({"status": "ready"})
    assert instance.read() == json.loads((tmp_path / "up" / "state.json").read_text(encoding="utf-8"))


def test_data_elsewhere_is_believed_only_where_we_put_it(tmp_path: Path) -> None:
    instance = Instance(tmp_path, "up")
    instance.create()
    (tmp_path / "up" / "postgres.elsewhere").write_text("/home", encoding="utf-8")
    with pytest.raises(StackError, match="remove it"):
        instance.data("postgres")


async def test_what_is_missing_and_may_not_be_installed_names_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_find", lambda *_, **__: None)
    settings = Settings.load({"FLASH_HOME": str(tmp_path), "FLASH_APT": "off"})
    with pytest.raises(StackError, match=r"apt-get install .*redis-server") as caught:
        await services.resolve(["redis"], settings, Instance(tmp_path, "up"), lambda _: None)
    assert caught.value.code is Exit.MISSING


async def test_a_given_url_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    for name, url in (
        ("postgres", "postgresql://ana:hunter2@127.0.0.1:1/flash"),
        ("redis", "redis://:hunter2@127.0.0.1:1/0"),
        ("rabbitmq", "amqp://ana:hunter2@127.0.0.1:1/%2F"),
    ):
        settings = Settings.load({"FLASH_HOME": str(tmp_path), f"FLASH_{name.upper()}_URL": url})
        with pytest.raises(StackError, match=f"FLASH_{name.upper()}_URL") as caught:
            await services.resolve([name], settings, Instance(tmp_path, "up"), lambda _: None)
        assert caught.value.code is Exit.MISSING
        assert "hunter2" not in str(caught.value)


def _given_urls(url: str, **passwords: str) -> Mapping[str, str]:
    return services.KINDS["postgres"].urls(url, Settings.load(passwords))


def test_roles_of_a_given_database_keep_its_address_and_never_the_owners_password() -> None:
    urls = _given_urls("postgresql://own:a@b@db:5433/flash?sslmode=require&password=hunter2")
    assert urls["app"].startswith("postgresql://flash_app:")
    assert urls["app"].endswith("@db:5433/flash?sslmode=require")
    assert "hunter2" not in urls["app"] + urls["auditor"]


def test_roles_of_a_given_database_have_the_same_passwords_for_everybody_it_is_given_to() -> None:
    def passwords(url: str) -> tuple[str, str]:
        urls = _given_urls(url)
        app, auditor = urlsplit(urls["app"]).password, urlsplit(urls["auditor"]).password
        assert app
        assert auditor
        return app, auditor

    app, auditor = passwords("postgresql://own:a%40b@db:5433/flash")
    assert app != auditor
    for word in (app, auditor):
        assert len(word) == services.DERIVED_PASSWORD_CHARS
        assert PASSWORD.parse(word) == word
    assert passwords("postgresql://own:a@b@db.example:5433/flash") == (app, auditor)
    assert passwords("postgresql://own@db:5433/flash?password=a%40b") == (app, auditor)
    assert passwords("postgresql://own:other@db:5433/flash") != (app, auditor)
    assert passwords("postgresql://own@db/flash") != passwords("postgresql://own@db/other")


def test_a_password_that_is_given_is_not_derived() -> None:
    url = "postgresql://own:owners-own@db:5433/flash"
    derived = _given_urls(url)
    app = _given_urls(url, FLASH_POSTGRES_APP_PASSWORD="of-the-app-alone")
    auditor = _given_urls(url, FLASH_POSTGRES_AUDITOR_PASSWORD="of-the-auditor-alone")
    assert app == {**derived, "app": "postgresql://flash_app:of-the-app-alone@db:5433/flash"}
    assert auditor == {**derived, "auditor": "postgresql://flash_auditor:of-the-auditor-alone@db:5433/flash"}


def test_a_policy_keeps_daemons_off_while_packages_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(services, "POLICY", policy)
    with services._no_daemons():
        assert subprocess.run([str(policy)], check=False, timeout=PATIENCE_SECONDS).returncode == 101
    assert not policy.exists()
    # Left by a start that was killed in the middle.
    policy.write_text(services.POLICY_TEXT, encoding="ascii")
    with services._no_daemons():
        pass
    assert not policy.exists()
    policy.write_text("#!/bin/sh\nexit 0\n", encoding="ascii")
    with services._no_daemons():
        pass
    assert policy.read_text(encoding="ascii").endswith("exit 0\n")


def test_forgetting_takes_the_data_and_leaves_the_passwords(tmp_path: Path) -> None:
    instance = Instance(tmp_path, "demo")
    before = instance.passwords()
    instance.data("redis").mkdir()
    instance.forget(["redis", "postgres"])
    assert not instance.data("redis").exists()
    assert instance.passwords() == before
