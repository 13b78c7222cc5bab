# The settings table: what is refused, and that nothing fails silently.
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from flashsale.contract.wire import WAIT_SECONDS_MAX
from flashsale.settings import REPOSITORY
from loadbalancer.config import FILE_BYTES_MAX, TABLE, Address, Config, ConfigError, usage
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
    config = Config.load(
        {
            "LB_SERVERS": f"a=127.0.0.1:81*3, [::1]:82,host.example:83*2,absolute.:84,{longest}:85,u=unix:/run/a.sock*2,"
            "p=h:86/stock/stream*4,h:87/a-b_c.d~e"
        }
    )
    assert config.servers == (
        Address("a", "127.0.0.1", 81, 3),
        Address("[::1]:82", "::1", 82, 1),
        Address("host.example:83", "host.example", 83, 2),
        Address("absolute.:84", "absolute.", 84, 1),
        Address(f"{longest}:85", longest, 85, 1),
        Address("u", "unix:/run/a.sock", 0, 2),
        Address("p", "h", 86, 4, "/stock/stream"),
        Address("h:87", "h", 87, 1, "/a-b_c.d~e"),
    )
    again = ",".join(map(str, config.servers))
    assert Config.load({"LB_SERVERS": again}).servers == config.servers


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
        ("LB_SERVERS", "unix:/run/a"),  # a path is no name
        ("LB_SERVERS", "a=unix:run/a"),
        ("LB_SERVERS", "a=unix:/run/a*0"),
        ("LB_SERVERS", f"a=unix:/{'a' * 100}"),
        ("LB_SERVERS", "http://h:1"),
        ("LB_SERVERS", "a=h:1,b=h:2/"),
        ("LB_SERVERS", "a=h:1,b=h:2/a//b"),
        ("LB_SERVERS", "a=h:1,b=h:2/a?b"),
        ("LB_SERVERS", "a=h:1,b=h:2*3/a"),
        ("LB_SERVERS", "a=h:1/a,b=h:2/b"),  # and who is there for the rest?
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
        ("LB_HASH", "cookie:"),
        ("LB_HASH", "cookie:a b"),
        ("LB_HASH", "cookies:a"),
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
    assert problem.startswith(f"{variable} is {value!r}")
    assert f"; allowed: {allowed}" in problem


@pytest.mark.parametrize(
    ("servers", "wrong"),
    [
        ("a=h:1,b", "'b' is not a server"),
        ("a=h:1,a=h:2", "there are two named 'a'"),
        (",".join(f"h:{port}" for port in range(1, 66)), "these are 65"),
    ],
)
def test_of_many_servers_the_wrong_one_is_named(servers: str, wrong: str) -> None:
    (problem,) = refused({"LB_SERVERS": servers})
    assert f", where {wrong}; allowed: " in problem


def test_a_word_that_is_nearly_one_is_told_which() -> None:
    (problem,) = refused({**GIVEN, "LB_ALGORITHM": "least_connection"})
    assert problem.endswith("; did you mean least_connections?")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert refused({**GIVEN, "LB_SERVER": "x", "LB_ZZZZZZ": "1"}) == (
        "LB_SERVER is not a setting; did you mean LB_SERVERS?",
        "LB_ZZZZZZ is not a setting; `python -m loadbalancer --help` lists the known ones",
    )


# The file.


def in_file(path: Path, text: str, **environ: str) -> dict[str, str]:
    path.write_text(text, encoding="utf-8")
    return {"LB_CONFIG": str(path), **environ}


def test_a_file_gives_what_the_environment_does_not(tmp_path: Path) -> None:
    text = 'servers = ["a=h:1", "b=h:2*3"]\nport = 1\nconnect_timeout = 0.5\naccess_log = true\nalgorithm = ""\n'
    config = Config.load(in_file(tmp_path / "lb.toml", text, LB_PORT="2"))
    assert config.servers == (Address("a", "h", 1, 1), Address("b", "h", 2, 3))
    assert (config.port, config.connect_timeout, config.access_log) == (2, 0.5, "on")
    assert config.algorithm == "round_robin"  # as in the environment, empty is not given


def test_what_is_wrong_in_a_file_is_told_with_file_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    text = 'servers = ["a"]\nretries = 11\nalgoritm = "x"\ngrace = [1]\nport = 1.5\nconfig = "x"\nhost = {a = 1}\n'
    problems = refused(in_file(path, text))
    allowed = {setting.name: setting.kind.allowed for setting in TABLE}
    assert set(problems) == {
        f"{path}: servers is 'a', where 'a' is not a server; allowed: {allowed['servers']}",
        f"{path}: retries is '11'; allowed: {allowed['retries']}",
        f"{path}: algoritm is not a setting; did you mean algorithm?",
        f"{path}: grace is [1]; allowed: {allowed['grace']}",
        f"{path}: port is '1.5'; allowed: {allowed['port']}",
        f"{path}: config is not a setting; `python -m loadbalancer --help` lists the known ones",
        f"{path}: host is {{'a': 1}}; allowed: {allowed['host']}",
    }


@pytest.mark.parametrize("raw", [b"port 1", b"\xff", b"#" * (FILE_BYTES_MAX + 1)])
def test_a_file_that_is_none_is_refused_by_its_name(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "lb.toml"
    path.write_bytes(raw)
    for given in (path, tmp_path / "absent.toml", tmp_path):
        (problem,) = refused({**GIVEN, "LB_CONFIG": str(given)})
        assert problem.startswith(f"LB_CONFIG is {str(given)!r}: ")
        assert problem.endswith("; allowed: a readable file in TOML")


def test_a_balancer_in_front_of_itself_is_refused() -> None:
    (problem,) = refused({"LB_SERVERS": "127.0.0.1:8000"})
    assert "itself" in problem


def test_a_link_for_what_may_not_be_sent_again_is_refused() -> None:
    routes = {"LB_REPLAY_SAFE": "POST /a,PUT /b", "LB_LINK": "POST /a,POST /b,PUT /b"}
    (problem,) = refused({**GIVEN, **routes})
    assert problem.startswith("LB_LINK names POST /b, which LB_REPLAY_SAFE does not")


def test_a_link_for_answers_without_the_body_that_their_length_says_is_refused() -> None:
    (problem,) = refused({**GIVEN, "LB_REPLAY_SAFE": "HEAD /a", "LB_LINK": "HEAD /a"})
    assert problem.startswith("LB_LINK names HEAD /a; allowed: ")


def test_a_limit_that_leaves_a_worker_none_is_refused() -> None:
    assert refused({**GIVEN, "LB_WORKERS": "3", "LB_MAXCONN": "2"}) == (
        "LB_MAXCONN is 2; allowed: 0, or 3 and more: one per worker",
    )
    assert Config.load({**GIVEN, "LB_WORKERS": "3", "LB_MAXCONN": "0"}).maxconn == 0


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


def test_check_prints_what_would_be_used_and_who_says_so(tmp_path: Path) -> None:
    path = tmp_path / "lb.toml"
    environ = in_file(path, 'retries = 1\nservers = ["a=h:1"]\nport = 1\n', LB_PORT="2")
    checked = run("--check", **environ)
    assert (checked.returncode, checked.stderr) == (0, "")
    rows = [line.split() for line in checked.stdout.splitlines()]
    assert ["LB_PORT=2", "LB_PORT"] in rows
    assert ["LB_RETRIES=1", f"{path}:", "retries"] in rows
    assert ["LB_GRACE=15", "default"] in rows
    assert ["a=h:1*1"] in rows
    assert run("--check", "--config", str(path)).stdout == run("--check", LB_CONFIG=str(path)).stdout
    path.write_text("retries = 1\nports = 1\n", encoding="utf-8")
    wrong = run("--check", f"--config={path}")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert f"loadbalancer: {path}: ports is not a setting; did you mean port?\n" in wrong.stderr
    assert "LB_SERVERS is not given" in wrong.stderr
