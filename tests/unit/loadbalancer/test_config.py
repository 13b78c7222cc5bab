# The settings table: what is refused, and that nothing fails silently.
import subprocess
import sys
from dataclasses import fields

import pytest

from flashsale.contract.wire import WAIT_SECONDS_MAX
from flashsale.settings import REPOSITORY
from loadbalancer.config import TABLE, Address, Config, ConfigError, usage
from tests.patience import PATIENCE_SECONDS

GIVEN = {"LB_SERVERS": "127.0.0.1:8080"}


def refused(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Config.load(environ)
    return caught.value.problems


def test_the_table_and_the_class_name_the_same_settings() -> None:
    assert [setting.name for setting in TABLE] == [field.name for field in fields(Config)]


def test_servers_alone_have_to_be_given_and_the_rest_has_defaults() -> None:
    config = Config.load({**GIVEN, "LB_PORT": "", "OTHER": "x"})
    assert (config.host, config.port, config.algorithm, config.access_log) == ("127.0.0.1", 8000, "round_robin", "off")
    assert config.hash == ("header:buyer-id", "header:authorization", "address")
    assert config.replay_safe == (("POST", "/purchases"), ("POST", "/purchases/*/pay"))
    (problem,) = refused({})
    assert problem.startswith("LB_SERVERS is not given")


def test_who_asks_a_server_to_wait_hears_the_server_and_not_the_balancer() -> None:
    # after the longest wait the server still reads the verdict and writes it
    assert Config.load(GIVEN).response_timeout >= WAIT_SECONDS_MAX + 5


def test_how_servers_are_written() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    config = Config.load({"LB_SERVERS": f"a=127.0.0.1:81*3, [::1]:82,host.example:83*2,absolute.:84,{longest}:85"})
    assert config.servers == (
        Address("a", "127.0.0.1", 81, 3),
        Address("[::1]:82", "::1", 82, 1),
        Address("host.example:83", "host.example", 83, 2),
        Address("absolute.:84", "absolute.", 84, 1),
        Address(f"{longest}:85", longest, 85, 1),
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LB_SERVERS", "127.0.0.1"),
        ("LB_SERVERS", "127.0.0.1:0"),
        ("LB_SERVERS", "127.0.0.1:65536"),
        ("LB_SERVERS", "127.0.0.1:80*0"),
        ("LB_SERVERS", "127.0.0.1:80*257"),
        ("LB_SERVERS", "a=h:1,a=h:2"),
        ("LB_SERVERS", "h:1,"),
        ("LB_SERVERS", "http://h:1"),
        ("LB_SERVERS", "a..b:80"),
        ("LB_SERVERS", ".a:80"),
        ("LB_SERVERS", ".:80"),
        ("LB_SERVERS", "[a..b]:80"),
        ("LB_SERVERS", "[127.0.0.1]:80"),
        ("LB_SERVERS", f"{'a' * 64}.b:80"),
        ("LB_SERVERS", f"{'a.' * 126}aa:80"),
        ("LB_SERVERS", ",".join(f"h:{port}" for port in range(1, 66))),
        ("LB_HOST", "example.org"),
        ("LB_PORT", "65536"),
        ("LB_PORT", "٨٠"),
        ("LB_ALGORITHM", "rr"),
        ("LB_HASH", "cookie:a"),
        ("LB_HASH", "header:"),
        ("LB_CHECK_PATH", "livez"),
        ("LB_CHECK_PATH", "/a b"),
        ("LB_CONNECT_TIMEOUT", "0"),
        ("LB_CONNECT_TIMEOUT", "1e3"),
        ("LB_CONNECT_TIMEOUT", "-1"),
        ("LB_RETRY_BUDGET", "101"),
        ("LB_REPLAY_SAFE", "/purchases"),
        ("LB_REPLAY_SAFE", "POST /purchases*"),
        ("LB_ACCESS_LOG", "yes"),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(variable: str, value: str) -> None:
    (problem,) = refused({**GIVEN, variable: value})
    allowed = next(setting.kind.allowed for setting in TABLE if setting.variable == variable)
    assert problem == f"{variable} is {value!r}; allowed: {allowed}"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert refused({**GIVEN, "LB_SERVER": "x", "LB_ZZZZZZ": "1"}) == (
        "LB_SERVER is not a setting; did you mean LB_SERVERS?",
        "LB_ZZZZZZ is not a setting; `python -m loadbalancer --help` lists the known ones",
    )


def test_a_balancer_in_front_of_itself_is_refused() -> None:
    (problem,) = refused({"LB_SERVERS": "127.0.0.1:8000"})
    assert "itself" in problem


def test_a_link_for_what_may_not_be_sent_again_is_refused() -> None:
    routes = {"LB_REPLAY_SAFE": "POST /a,PUT /b", "LB_LINK": "POST /a,POST /b,PUT /b"}
    (problem,) = refused({**GIVEN, **routes})
    assert problem.startswith("LB_LINK names POST /b, which LB_REPLAY_SAFE does not")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadbalancer", *arguments],
        env={"PYTHONPATH": str(REPOSITORY), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def test_help_names_every_variable_with_its_default() -> None:
    shown = run("--help")
    assert (shown.returncode, shown.stdout) == (0, usage())
    for setting in TABLE:
        assert f"{setting.variable}={setting.default}\n" in shown.stdout
        assert " ".join(setting.help.split()) in " ".join(shown.stdout.split())


def test_wrong_settings_and_arguments_end_with_2_and_say_all_that_is_wrong() -> None:
    ended = run(LB_PORT="x", LB_SERVER="y")
    assert ended.returncode == 2
    assert all(name in ended.stderr for name in ("LB_PORT", "LB_SERVER ", "LB_SERVERS is not given"))
    assert run("serve").returncode == 2
