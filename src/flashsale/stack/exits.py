# How a command ends. The numbers are a promise to scripts: none changes its meaning.
from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # the thing checked did not hold, or a process gave up
    USAGE = 2  # bad command line, wrong setting, taken port
    MISSING = 3  # a service, a tool or a running stack that the command needs is not there
    INTERRUPTED = 130  # Ctrl-C, or SIGTERM before the work was done


EXIT_CODES_HELP = (
    "exit codes: 0 ok · 1 the thing checked failed · 2 bad usage or configuration · "
    "3 a needed service or tool is missing · 130 interrupted"
)


class StackError(Exception):
    """Why the launcher cannot go on, in words for the person at the terminal; `code` is the exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code
