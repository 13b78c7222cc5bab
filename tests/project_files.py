"""What belongs to this project, also where it was neither cloned nor unpacked from an archive."""

from flashsale.settings import REPOSITORY
from flashsale.stack.exits import StackError
from flashsale.stack.submission import belonging

FOLDERS = (".ci", "benchmarks", "deploy", "loadbalancer", "reports", "scripts", "src", "tests")


def project_files() -> list[str]:
    """Names from the root, sorted."""
    try:
        return sorted(belonging(REPOSITORY))
    except StackError:
        found = [*REPOSITORY.iterdir(), *(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*"))]
        return sorted(
            str(path.relative_to(REPOSITORY)) for path in found if path.is_file() and "__pycache__" not in path.parts
        )
