"""The two backends can be read side by side: the same files, the same public names in the same order, so that
`diff -ru` of the two folders is the comparison. What one has and the other cannot have is listed here, with the reason.
"""

import ast

import pytest

from flashsale.settings import REPOSITORY

BACKENDS = REPOSITORY / "src" / "flashsale" / "backends"
LEFT, RIGHT = BACKENDS / "asyncio_redis", BACKENDS / "gevent_rabbit"
FILES = sorted(path.name for path in LEFT.glob("*.py"))

# file → names that only one of the two has
OWN: dict[str, set[str]] = {
    "app.py": {"Front", "Log", "Gunicorn"},  # a master's child is built by the master
    "checkout.py": {"Deciding", "Wish"},  # a greenlet waits where it is, with what it was given
    "dispatch.py": {"QueueUnavailable"},  # the authority's own exception says it on the other side
    "metrics.py": {
        "gate_answers",
        "gate_seconds",
        "gate_up",
        "batch_sizes",
        "commit_seconds",
        "loop_lag",
        "sample_lag",
        "authority_up",
        "confirms",
        "confirm_seconds",
        "unconfirmed",
        "queue_depth",
        "queue_up",
    },
    # aiohttp refuses by itself what it cannot read; only an event loop is worth a process of viewers alone
    "routes.py": {"refuse", "show_stock"},
    "stream.py": set(),
    "watch.py": {"Waiter"},
}
# class → methods that only one of the two has
OWN_METHODS: dict[str, set[str]] = {
    "Checkout": {
        "follow",
        "begin",
        "close",
    },  # only a queue has attempts to follow; only a gate has refusals that nothing waits for, and debits to settle before the end
    "Dispatcher": {"is_up"},  # an attribute on the other side
    # Greenlets carry a stream and end with it; here it stays with a connection that is nobody's request any more.
    "Stream": {"seen_off"},
    "_Sink": {"is_gone", "carry", "connection_made", "connection_lost"},
    "Routes": {"begin_purchase", "purchase_fields"},  # only a server with a lane has two ways in
    "Watch": {
        "wait_change",
        "wait_decided",
        "waiting",
        "sleep",
    },  # a coroutine can be cancelled, a greenlet is told to wait
}


def public_names(path: str, source: str) -> list[str]:
    names = []
    for node in ast.parse(source, path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_") and not name.isupper() and name != "log"]


def methods(source: str) -> dict[str, list[str]]:
    return {
        node.name: [
            item.name
            for item in node.body
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_")
        ]
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


def test_both_have_the_same_files() -> None:
    assert sorted(path.name for path in RIGHT.glob("*.py")) == FILES


@pytest.mark.parametrize("file", FILES)
def test_public_names_are_the_same_in_the_same_order(file: str) -> None:
    left, right = (public_names(file, (side / file).read_text()) for side in (LEFT, RIGHT))
    own = OWN.get(file, set())
    assert [name for name in left if name not in own] == [name for name in right if name not in own]
    assert own <= {*left, *right}, "a name is excused that nobody has"


@pytest.mark.parametrize("file", ["checkout.py", "dispatch.py", "stream.py", "watch.py"])
def test_the_same_classes_promise_the_same_methods(file: str) -> None:
    left, right = (methods((side / file).read_text()) for side in (LEFT, RIGHT))
    for name in left.keys() & right.keys():
        own = OWN_METHODS.get(name, set())
        assert set(left[name]) - own == set(right[name]) - own, name


def test_every_route_of_one_is_a_route_of_the_other() -> None:
    left, right = (methods((side / "routes.py").read_text())["Routes"] for side in (LEFT, RIGHT))
    assert [name for name in left if name not in {"add_to", *OWN_METHODS["Routes"]}] == right
