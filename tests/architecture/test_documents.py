"""Documents say what is so: each command is one, each file, link and setting that they name is there, and each command has its test.

No command is run here, since most start a shop. Its words are held against the command line's own parser, and `RUN_BY` names the
test that does run it.
"""

import lzma
import re
import subprocess
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import IO

import pytest

from flashsale.settings import BALANCER_TABLE, REPOSITORY, TABLE
from flashsale.stack import bench, cli
from flashsale.stack.documents import TO_COME, Code, code_of, flash_words, refusal
from flashsale.stack.programs import PROGRAMS
from tests.patience import PATIENCE_SECONDS
from tests.project_files import project_files

DOCUMENTS = (
    *("README.md", "HANDBOOK.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "submission-checklist.md"),
    "reports/narrative.md",
)
SCRIPTS = ("scripts/compare-backends", "scripts/evidence", "scripts/load-test", ".ci/run")
SOMEBODYS = "3f1c0c6e-0000-8000-8000-000000000001"  # for ID, where a document leaves that to the reader

# Per word of `./flash` the test that runs it, or what is behind it.
RUN_BY = {
    "demo": "failure/test_demo_kill.py::test_the_command_sells_on_each_backend_kills_whom_it_is_told_to_and_ends_with_0",
    "up": "failure/test_launcher_up.py::test_up_is_ready_heals_survives_a_second_up_and_goes_down_whole",
    "down": "failure/test_launcher_up.py::test_up_is_ready_heals_survives_a_second_up_and_goes_down_whole",
    "status": "failure/test_launcher_up.py::test_up_is_ready_heals_survives_a_second_up_and_goes_down_whole",
    "audit": "failure/test_launcher_up.py::test_up_is_ready_heals_survives_a_second_up_and_goes_down_whole",
    "test": "unit/stack/test_checks.py::test_workers_share_the_tests_out_and_what_must_stay_together_does",
    "soak": "failure/test_soak.py::test_whoever_is_killed_whenever_the_books_are_right",
    "sale": "contract/test_sale_life.py::test_a_sale_from_its_first_word_to_its_end",
    "purchase": "contract/test_purchase_by_hand.py::test_a_refund_and_a_restock_from_the_terminal",
    "lb": "failure/test_loadbalancer_changes.py::test_servers_come_and_go_and_weigh_more_by_hand",
    "dlq": "failure/test_dead_letters.py::test_one_is_requeued_and_the_others_stay_as_they_were",
    "operations": "contract/test_operations.py::test_the_list_shows_the_latest_of_a_subject_in_order",
    "admin": "unit/admin/test_users.py::test_somebody_new_can_sign_in_with_the_password_that_was_shown",
    "bench": "unit/stack/test_bench.py::test_every_row_names_a_module_and_roles_that_exist",
    "report": "unit/bench_report/test_build.py::test_the_commands_exit_codes_are_a_promise",
    "video": "browser/test_video.py::test_ten_seconds_of_film_can_be_played_and_seen",
    "submission": "unit/stack/test_submission.py::test_the_command_names_the_archive_and_its_checksum",
    "merchant": "contract/test_merchant_report.py::test_the_same_as_json_as_tables_and_as_files",
    "buyer": "contract/test_privacy.py::test_an_export_holds_all_that_is_held",
    "webhooks": "failure/test_webhooks.py::test_the_program_delivers_until_it_is_asked_to_stop",
    "backup": "contract/test_backup.py::test_what_comes_back_is_what_was_written",
    "restore": "failure/test_restore.py::test_a_backup_becomes_a_shop_and_replaces_one_only_when_told_to",
    "drill": "failure/test_restore.py::test_redis_and_rabbitmq_can_be_lost",
    "doctor": "unit/stack/test_cli.py::test_doctor_names_a_fix_for_what_cannot_be_had",
    "config": "unit/stack/test_cli.py::test_config_as_json_says_where_each_value_comes_from",
    "token": "unit/identity/test_tokens.py::test_a_minted_token_needs_no_second_look",
    "clean": "unit/stack/test_cli.py::test_clean_removes_the_data_and_nothing_else",
}
# The same behind `bench`, with less of everything. `operations` and `payments` start too much for what a test would learn: of the one the
# report is tested, of the other that it is there.
BENCHES_RUN_BY = {
    "backend": "contract/test_bench_backend.py::test_the_stock_is_sold_and_no_more",
    "lb": "contract/test_bench_lb.py::test_a_request_goes_through_everybody",
    "sse": "contract/test_bench_sse.py::test_everybody_tells_all_viewers",
    "authority": "contract/test_bench_authority.py::test_everything_is_measured_once",
    "payments": "unit/stack/test_bench.py::test_every_row_names_a_module_and_roles_that_exist",
    "strategies": "contract/test_bench_strategies.py::test_everything_about_one_strategy_makes_a_result",
    "operations": "unit/bench_operations/test_operations_report.py::test_differences_are_of_one_round_and_medians_of_all",
    **dict.fromkeys(
        bench.SIZES, "contract/test_comparison.py::test_all_meet_the_same_shoppers_and_everything_is_written_down"
    ),
}

# What is not here until somebody runs something, by name or by folder.
MADE_LATER = {
    ".env",
    ".flash",
    ".flash/certificate_key.pem",
    "docker-compose.override.yml",
    "./flash",
    *("run.json", "results.json", "calls.csv", "reports/results"),
}
FILE = re.compile(r"[\w.*-]*(?:/[\w.*-]+)*/?")
ENDINGS = frozenset(
    {
        ".py", ".sql", ".lua", ".md", ".toml", ".json", ".tsv", ".png", ".pdf", ".mp4", ".csv", ".js", ".mjs", ".html", ".css", ".yml",
        ".txt", ".in", ".lock", ".env", ".svg",
    }
)  # fmt: skip
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SETTING = re.compile(r"\b(?:FLASH|LB|POSTGRES|REDIS|RABBITMQ|GATEWAY)_[A-Z0-9_]*[A-Z0-9]\b(?!_)")
PYTEST_OWN = {"-q", "-k", "-s", "-x", "-v"}


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def commands_of(name: str) -> Iterator[tuple[Code, list[str]]]:
    """Each `./flash …`."""
    text = text_of(name)
    # of scripts line by line, whose comments are sentences
    lines = (Code(number, line, is_block=line[:1] != "#") for number, line in enumerate(text.splitlines(), 1))
    codes = code_of(text) if name.endswith(".md") else lines
    for code in codes:
        for words in flash_words(code.text):
            yield code, [SOMEBODYS if word == "ID" else word for word in words]


PARSER = cli._parser()


def parse(words: list[str]) -> object:
    return PARSER.parse_args(words)


@pytest.fixture(scope="module")
def files() -> list[str]:
    names = project_files()
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    return [*names, *folders]


@pytest.mark.parametrize("name", [*DOCUMENTS, *SCRIPTS])
def test_every_command_is_one(name: str) -> None:
    refused, lines = [], text_of(name).splitlines()
    for code, words in commands_of(name):
        # In a sentence a command may stand for all that begin so: `./flash lb`.
        is_mention = not code.is_block and not any(word.startswith("-") for word in words)
        why = refusal(parse, words)
        if (
            why
            and not (is_mention and refusal(parse, [*words, "--help"]) is None)
            and TO_COME not in lines[code.line - 1]
        ):
            refused.append((name, code.line, words, why))
    assert refused == []


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_example_of_a_command_is_one(command: cli.Command) -> None:
    begin = command.about.index("example")
    examples = [*flash_words(command.about[begin:].replace("\\\n", " ").replace("\n", " ; "))]
    assert examples
    assert [(words, why) for words in examples if (why := refusal(parse, words))] == []


def test_every_command_is_told_of() -> None:
    told = {words[0] for name in ("README.md", "HANDBOOK.md") for _, words in commands_of(name)}
    assert {command.name for command in cli.COMMANDS} - told == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_pytest_is_told_is_there(name: str) -> None:
    known = text_of("tests/conftest.py")
    for _, words in commands_of(name):
        if words[0] != "test":
            continue
        for word in words[1:]:
            option = word.partition("=")[0]
            if "/" in word:
                assert (REPOSITORY / word).exists(), word
            elif option.startswith("-") and option not in PYTEST_OWN:
                assert f'"{option}"' in known, option


def test_every_command_is_run_by_a_test() -> None:
    benches = {*bench.SIZES, *(one.name for one in bench.BENCHES)}
    for rows, names in ((RUN_BY, {command.name for command in cli.COMMANDS}), (BENCHES_RUN_BY, benches)):
        assert set(rows) == names
        for row in rows.values():
            file, _, name = row.partition("::")
            assert f"def {name}(" in text_of(f"tests/{file}"), row


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_is_named_is_there(name: str, files: list[str]) -> None:
    missing = []
    for code in code_of(text_of(name)):
        word = code.text.rstrip("/")
        if code.is_block or word.startswith("/") or word in MADE_LATER or not FILE.fullmatch(word):
            continue
        is_file = "/" in code.text or PurePosixPath(word).suffix in ENDINGS
        # A document may leave out what is clear from its sentence: `gate/link.py`.
        if is_file and not any(fnmatchcase(one, word) or fnmatchcase(one, f"*/{word}") for one in files):
            missing.append((code.line, code.text))
    lines = text_of(name).splitlines()
    assert [(line, word) for line, word in missing if TO_COME not in lines[line - 1]] == []


def anchors_of(text: str) -> set[str]:
    """What a heading is linked to by."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in LINK.findall(text_of(name)):
        if link.startswith("https://"):  # others' pages are not asked for: a test needs no network
            continue
        file, _, anchor = link.partition("#")
        place = (REPOSITORY / name).parent / file if file else REPOSITORY / name
        assert place.exists(), link
        assert not anchor or anchor in anchors_of(place.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_setting_is_one(name: str, files: list[str]) -> None:
    known = {row.variable for table in (TABLE, BALANCER_TABLE, PROGRAMS) for row in table}
    known |= set(SETTING.findall(text_of("docker-compose.yml") + text_of("deploy/compose.env")))
    named = set(SETTING.findall(text_of(name))) - known
    tests = (
        "".join(text_of(file) for file in files if file.startswith("tests/") and file.endswith(".py")) if named else ""
    )
    # FLASH_TEST_*, and what the launcher tells tests: theirs to read
    assert {one for one in named if not (one.startswith("FLASH_TEST_") and one in tests)} == set()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_read_by_its_shell(name: str) -> None:
    shell = text_of(name).partition("\n")[0].removeprefix("#!").split()
    done = subprocess.run([*shell, "-n", str(REPOSITORY / name)], check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0


def test_the_backends_can_be_compared() -> None:
    done = subprocess.run(
        ["sh", str(REPOSITORY / "scripts/compare-backends")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0
    assert "+++ gevent_rabbit/checkout.py" in done.stdout


def test_what_is_handed_in_of_a_run_names_nobodys_disk() -> None:
    """Read out of the committed archives, since nobody looks into those."""
    found = {"results.json": (REPOSITORY / "reports/results.json").read_bytes()}
    for archive in (REPOSITORY / "reports/results").glob("*.tar"):
        with tarfile.open(archive) as packed:
            for member in packed:
                found[member.name] = lzma.decompress(_file_of(packed, member).read())
    assert len(found) > 1
    assert not {name: match[0] for name, text in found.items() if (match := re.search(rb'"/[a-z]+/[^" ]*', text))}


def _file_of(packed: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = packed.extractfile(member)
    assert file is not None
    return file
