"""Scenarios: a TOML file each, in ``scenarios/``. A new one is a copy of another with a name of its own.

A file says what is asked, who comes, to what shop, served by how much, and how often the whole is repeated in a run of each size.
Whatever is not said has the default written here. An unknown table or key stops the run, since one that silently did nothing would
be found out in the report.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.comparison.contract import LABELS, SIZES

FOLDER = Path(__file__).with_name("scenarios")
ALGORITHMS = ("round_robin", "least_connections", "consistent_hash", "power_of_two")
# Open loops all: who comes next does not wait for anybody's answer.
POISSON, CONSTANT, _, BURST, BELL = MODELS = ("poisson", "constant", "ramp", "burst", "bell")
POLITE, STORM = RETRIES = ("polite", "storm")
KILLABLE = ("server", "worker", "balancer")
SHOPPERS_MAX = 100_000  # bounds what is kept per shopper: rows, calls, lines of the told file
CONNECTIONS_MAX = 15_000  # of the 20,000 files that a process may have open here, and of the kernel's 28,000 ports
FILE_BYTES_MAX = 64 * 1024


class ScenarioError(ValueError):
    """Everything wrong with a file at once, one per line: the file, the key, the value, and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Kind(NamedTuple):
    """What a value may be."""

    type: type
    low: float = 0
    high: float = 0
    words: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        if self.words:
            return " | ".join(self.words)
        if self.type is bool:
            return "true | false"
        if self.type is str:
            return f"a text of {self.low:.0f} to {self.high:.0f} characters"
        return f"a {'whole ' if self.type is int else ''}number, {self.low:.12g} to {self.high:.12g}"

    def takes(self, value: object) -> bool:
        """TOML's own types are believed, but a whole number will do for any number."""
        if self.type is bool or isinstance(value, bool):
            return self.type is bool and isinstance(value, bool)
        if self.words:
            return value in self.words
        if self.type is str:
            return isinstance(value, str) and self.low <= len(value) <= self.high
        kinds = (int,) if self.type is int else (int, float)
        return isinstance(value, kinds) and self.low <= value <= self.high


def _key(default: Any, kind: Kind) -> Any:
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Load:
    """
    Who comes, and how. ``rate`` per second for ``seconds`` (poisson, constant); from ``rate_from`` up to ``rate`` and down again (ramp);
    ``shoppers`` at one moment, over connections that stand (burst), or within ``seconds``, most of them at once (bell).
    """

    model: str = _key(POISSON, Kind(str, words=MODELS))
    rate: float = _key(100.0, Kind(float, 1, 20_000))
    rate_from: float = _key(1.0, Kind(float, 1, 20_000))
    seconds: float = _key(10.0, Kind(float, 0.5, 600))
    shoppers: int = _key(1_000, Kind(int, 1, SHOPPERS_MAX))
    # Made before the release; more are made when none is free, up to one per shopper. A burst has that many from the beginning.
    connections: int = _key(1_000, Kind(int, 1, CONNECTIONS_MAX))
    patience_s: float = _key(60.0, Kind(float, 1, 600))  # then a shopper gives up, and its wish is a TIMEOUT
    retry: str = _key(POLITE, Kind(str, words=RETRIES))  # storm: a second without an answer, and again at once


@dataclass(frozen=True)
class Shop:
    """What is sold: ``stock`` units in all, spread over ``skus`` evenly."""

    skus: int = _key(1, Kind(int, 1, 1_000))
    stock: int = _key(1_000, Kind(int, 1, 1_000_000))
    buyer_limit: int = _key(2, Kind(int, 1, 1_000))


@dataclass(frozen=True)
class Engine:
    """Who serves. Names as in the engine's own settings (``FLASH_IN_FLIGHT_MAX``, ``LB_QUEUE`` and so on)."""

    servers: int = _key(2, Kind(int, 1, 16))
    algorithm: str = _key("round_robin", Kind(str, words=ALGORITHMS))
    in_flight_max: int = _key(4_096, Kind(int, 1, 100_000))
    maxconn: int = _key(1_024, Kind(int, 0, 100_000))
    queue: int = _key(4_096, Kind(int, 0, 100_000))
    queue_timeout: int = _key(1, Kind(int, 1, 300))
    linked: bool = _key(False, Kind(bool))  # LB_LINK for purchases; off where backends are compared


@dataclass(frozen=True)
class Accident:
    """Who is killed (-9) in the middle: nobody, or one ``kill`` at ``at_s`` after the release."""

    kill: str = _key("", Kind(str, words=("", *KILLABLE)))
    at_s: float = _key(1.0, Kind(float, 0, 600))


@dataclass(frozen=True)
class Repeats:
    """How many blocks of this a run of each size has; 0: none."""

    quick: int = _key(0, Kind(int, 0, 50))
    standard: int = _key(0, Kind(int, 0, 50))
    full: int = _key(0, Kind(int, 0, 50))
    scenario: int = _key(1, Kind(int, 1, 50))  # when it is asked for by name

    def of(self, size: str) -> int:
        count: int = getattr(self, size)
        return count


@dataclass(frozen=True)
class Noise(Repeats):
    """The same, for blocks that compare a backend with itself."""

    scenario: int = _key(0, Kind(int, 0, 50))


class Vary(NamedTuple):
    """A series: the whole scenario once for each value of one setting, all within a block."""

    setting: str = ""  # table.key
    values: tuple[Any, ...] = ()


NO_SERIES = Vary()


@dataclass(frozen=True)
class Scenario:
    """One file, in bounds."""

    name: str
    question: str
    labels: tuple[str, ...] = ("A", "B")
    viewers: int = 0  # who watch the live stock alongside
    load: Load = Load()
    shop: Shop = Shop()
    engine: Engine = Engine()
    accident: Accident = Accident()
    blocks: Repeats = Repeats()
    noise: Noise = Noise()
    vary: Vary = NO_SERIES

    def variants(self) -> list[tuple[str, "Scenario"]]:
        """Each by what it is called: the value, after its setting. One without a name where nothing varies."""
        if not self.vary.setting:
            return [("", self)]
        table, key = self.vary.setting.split(".")
        return [
            (f"{key}={value}", replace(self, **{table: replace(getattr(self, table), **{key: value})}))
            for value in self.vary.values
        ]


TABLES: Mapping[str, type[Any]] = {
    "load": Load,
    "shop": Shop,
    "engine": Engine,
    "accident": Accident,
    "blocks": Repeats,
    "noise": Noise,
}
_TOP = {"question": Kind(str, 10, 300), "viewers": Kind(int, 0, 1_000)}
VALUES_MAX = 10
VARIED = ("load", "shop", "engine")


def names() -> list[str]:
    """Every scenario there is."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, folder: Path = FOLDER) -> Scenario:
    """Raises ScenarioError with everything that is wrong, and for a name that is none."""
    return parse(name, read(name, folder))


def read(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The file as it is. Raises ScenarioError."""
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = sorted(each.stem for each in folder.glob("*.toml"))
        raise ScenarioError([f"there is no scenario {name!r}{_near(name, known)}; there are: {' '.join(known)}"])
    raw = path.read_bytes()
    if len(raw) > FILE_BYTES_MAX:
        raise ScenarioError([f"{path.name} is larger than {FILE_BYTES_MAX} bytes"])
    try:
        return tomllib.loads(raw.decode())
    except ValueError as error:
        raise ScenarioError([f"{path.name} is no TOML: {error}"]) from error


def parse(name: str, document: Mapping[str, Any]) -> Scenario:
    """A scenario from its TOML as read. Raises ScenarioError."""
    problems: list[str] = []
    tables = {table: _table(name, table, kind, document.get(table, {}), problems) for table, kind in TABLES.items()}
    known = [*TABLES, *_TOP, "labels", "vary"]
    problems += [f"{name}: {key!r} is not a key{_near(key, known)}" for key in document if key not in known]
    top = {key: document[key] for key in _TOP if key in document}
    problems += [_wrong(name, key, top[key], _TOP[key]) for key in top if not _TOP[key].takes(top[key])]
    if "question" not in document:
        problems.append(f"{name}: question is missing; what does it find out?")
    labels = document.get("labels", ["A", "B"])
    if not isinstance(labels, list) or not labels or any(label not in LABELS for label in labels):
        problems.append(f"{name}: labels is {labels!r}; allowed: a list of {' '.join(LABELS)}")
    vary = _vary(name, document.get("vary", {}), problems)
    if problems:
        raise ScenarioError(problems)
    scenario = Scenario(name=name, labels=tuple(labels), vary=vary, **top, **tables)
    if problems := [
        f"{name}: {shoppers:,} shoppers {variant} are more than {SHOPPERS_MAX:,}"
        for variant, each in scenario.variants()
        if (shoppers := expected_shoppers(each.load)) > SHOPPERS_MAX
    ]:
        raise ScenarioError(problems)
    return scenario


def expected_shoppers(load: Load) -> int:
    """How many will come, on average."""
    match load.model:
        case "burst" | "bell":
            return load.shoppers
        case "ramp":
            return round((load.rate_from + load.rate) / 2 * load.seconds)
        case _:
            return round(load.rate * load.seconds)


def load_seconds(load: Load) -> float:
    """From the first arrival to the last."""
    return 0.0 if load.model == BURST else load.seconds


def _table(name: str, table: str, kind: type[Any], given: Any, problems: list[str]) -> Any:
    if not isinstance(given, dict):
        problems.append(f"{name}: {table} is not a table")
        return kind()
    kinds: dict[str, Kind] = {one.name: one.metadata["kind"] for one in fields(kind)}
    good = {}
    for key, value in given.items():
        if key not in kinds:
            problems.append(f"{name}: {table}.{key} is not a key{_near(key, kinds)}")
        elif not kinds[key].takes(value):
            problems.append(_wrong(name, f"{table}.{key}", value, kinds[key]))
        else:
            good[key] = value
    return kind(**good)


def _vary(name: str, given: Any, problems: list[str]) -> Vary:
    if not given:
        return NO_SERIES
    if not isinstance(given, dict) or set(given) != {"setting", "values"}:
        problems.append(f"{name}: vary has setting and values, and nothing else")
        return NO_SERIES
    setting, values = given["setting"], given["values"]
    kinds = {f"{table}.{one.name}": one.metadata["kind"] for table in VARIED for one in fields(TABLES[table])}
    if setting not in kinds:
        problems.append(f"{name}: vary.setting is {setting!r}{_near(str(setting), kinds)}; allowed: {' '.join(kinds)}")
    elif not isinstance(values, list) or not 1 <= len(values) <= VALUES_MAX:
        problems.append(f"{name}: vary.values is {values!r}; allowed: a list of 1 to {VALUES_MAX}")
    else:
        problems += [
            _wrong(name, "vary.values", value, kinds[setting]) for value in values if not kinds[setting].takes(value)
        ]
        return Vary(setting, tuple(values))
    return NO_SERIES


def _wrong(name: str, key: str, value: object, kind: Kind) -> str:
    return f"{name}: {key} is {value!r}; allowed: {kind.allowed}"


def _near(text: str, known: Any) -> str:
    found = difflib.get_close_matches(text, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


assert set(SIZES) == {one.name for one in fields(Repeats)}, "a size without a number of blocks"
