import json
import subprocess
import sys

SCRIPT = """
import logging, structlog
from flashsale import logs
logs.configure("tester", "info")
def serve(token):
    raise ValueError("broken")
for log in (structlog.get_logger(), logging.getLogger("library")):
    try:
        serve("tok" + "en-of-ana")
    except ValueError:
        log.exception("request.failed")
structlog.get_logger().info("line\\nbreak", buyer=logs.pseudonym("ana"))
structlog.get_logger().debug("too quiet")
logging.getLogger("library").info("too quiet")
"""


def test_every_line_is_json_and_an_error_shows_no_variables() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"}
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["request.failed", "request.failed", "line\nbreak"]
    for line in lines:
        assert line["role"] == "tester"
        assert {"time", "level"} <= set(line)
    assert [line["exception"][0]["exc_value"] for line in lines[:2]] == ["broken", "broken"]
    assert "token-of-ana" not in run.stdout
    assert "ana" not in lines[2]["buyer"]
