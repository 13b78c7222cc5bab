"""Every condition of the SQL, and the same SQL without it. Read off the migrations, so that none can be forgotten.

A condition is what stands after WHERE, HAVING, ON, IF, ELSIF or WHEN, or is compared where a value is wanted. AND and OR take it apart into
operands, parentheses into smaller conditions. Each operand has one mutant, the neutral element of what joins it (``true`` beside
AND, ``false`` beside OR), so that it and nothing else is missing. A lone one is ``true`` where rows are chosen and ``false``
where a branch is; each literal of an IN leaves the list once, and that of a simple CASE matches nothing.

Not a parser of SQL: brackets, CASE and the words below are all it knows, which is what the migrations need.
"""

import re
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from typing import NamedTuple

_TOKEN = re.compile(
    r"(?P<blank>\s+|--[^\n]*|/\*.*?\*/)|(?P<string>'(?:[^']|'')*')|(?P<body>\$\$.*?\$\$)|(?P<word>\w+)"
    r"|(?P<sign>:=|=>|<=|>=|<>|->>|->|@>|\|\||::|\.\.|<<|~\*|.)",
    re.DOTALL,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ROWS_END = _words("GROUP ORDER LIMIT FOR UNION RETURNING HAVING WHERE JOIN LEFT CROSS INTO ; ,")
_BRANCH_ENDS = _words("THEN LOOP EXECUTE ;")
_ARGUMENT_ENDS = _words(", ORDER")
_COMPARES = _words("AND OR NOT IN IS EXISTS LIKE BETWEEN = <> < > <= >= ~ ~* @>")
_STATEMENTS = _words("SELECT WITH INSERT UPDATE DELETE VALUES")
_NEUTRAL = (("OR", "false"), ("AND", "true"))  # OR first: it binds less
_SHOWN_MAX = 130
_NO_FUNCTION = _words("AS IN ON BY EXISTS VALUES ANY ALL FILTER OVER LATERAL JOIN WHERE WHEN IF ELSIF AND OR NOT")


class Predicate(NamedTuple):
    name: str  # what is changed, and into what; stays the same when others come and go
    unit: str  # the function, view or trigger it is in
    statement: str  # that puts its mutant in


class _Token(NamedTuple):
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        return self.text.upper()


class _Group(NamedTuple):
    """What stands in brackets, or between CASE and END; the brackets themselves are not in it."""

    word: str  # ( [ CASE
    items: list["_Item"]
    start: int
    end: int

    @property
    def is_statement(self) -> bool:
        return bool(self.items) and self.items[0].word in _STATEMENTS


_Item = _Token | _Group


class _Change(NamedTuple):
    start: int
    end: int
    mutant: str  # what stands there instead
    of: str = ""  # the list that a literal leaves


def migrations() -> list[str]:
    folder = resources.files("flashsale.authority") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [file.read_text("utf-8") for file in files]


def predicates() -> list[Predicate]:
    """Those of all migrations, in the order of their text."""
    return [predicate for sql in migrations() for predicate in predicates_of(sql)]


def predicates_of(sql: str) -> list[Predicate]:
    """Those of the functions, views and triggers that this text creates."""
    return [predicate for unit, statement in units_of(sql) for predicate in _unit_predicates(unit, statement)]


def units_of(sql: str) -> Iterator[tuple[str, str]]:
    """The name and the statement of everything that has conditions."""
    start = 0
    for token in _tokens(sql):
        if token.text == ";":
            statement = sql[start : token.end]
            words = [each.text for each in _tokens(statement)]
            if words[:1] == ["CREATE"] and words[1] in {"FUNCTION", "VIEW", "TRIGGER"}:
                yield words[2] if words[1] != "TRIGGER" else f"{words[2]} on {words[words.index('ON') + 1]}", statement
            start = token.end


def _unit_predicates(unit: str, statement: str) -> Iterator[Predicate]:
    found: set[_Change] = set()
    tokens = list(_tokens(statement))
    bodies = [token for token in tokens if token.text.startswith("$$")]
    if bodies:
        tokens = [token for body in bodies for token in _tokens(body.text[2:-2], body.start + 2)]
    elif "TRIGGER" in {token.word for token in tokens}:
        tokens = tokens[[token.word for token in tokens].index("EACH") :]
    _walk(_grouped(tokens), found)
    seen: Counter[str] = Counter()
    for change in sorted(found):
        text = _short(statement[change.start : change.end])
        name = f"{change.of} without {text}" if change.of else f"{text} -> {change.mutant}"
        seen[name] += 1
        number = f" #{seen[name]}" if seen[name] > 1 else ""
        changed = statement[: change.start] + change.mutant + statement[change.end :]
        yield Predicate(f"{unit}: {name}{number}", unit, changed.replace("CREATE", "CREATE OR REPLACE", 1))


def _short(text: str) -> str:
    line = re.sub(r"\s+", " ", re.sub(r"\s*--[^\n]*", "", text)).strip(", ")
    return line if len(line) <= _SHOWN_MAX else f"{line[: _SHOWN_MAX - 40]} ... {line[-35:]}"


def _tokens(text: str, offset: int = 0) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            yield _Token(match.group(), offset + match.start(), offset + match.end())


def _grouped(tokens: list[_Token]) -> list[_Item]:
    stack: list[_Group] = [_Group("", [], 0, 0)]
    words = [token.word for token in tokens]
    for at, token in enumerate(tokens):
        follows = words[at + 1] if at + 1 < len(words) else ""
        before = words[at - 1] if at else ""
        if token.text in {"(", "["} or (token.word == "CASE" and before != "END"):
            stack.append(_Group(token.word, [], token.start, 0))
        elif token.text in {")", "]"} or (
            token.word == "END" and follows not in {"IF", "LOOP"} and stack[-1].word == "CASE"
        ):
            group = stack.pop()
            stack[-1].items.append(group._replace(end=token.end))
        else:
            stack[-1].items.append(token)
    (top,) = stack
    return top.items


def _walk(items: list[_Item], found: set[_Change], *, case: bool = False, searched: bool = False) -> None:
    """Finds the conditions among ``items`` and in what they contain."""
    for at, item in enumerate(items):
        before = items[at - 1].word if at else ""
        rest = items[at + 1 :]
        if isinstance(item, _Group):
            if item.word == "(" and before and re.fullmatch(r"\w+", before) and before not in _NO_FUNCTION:
                _arguments(item, found)
            is_case = item.word == "CASE"
            _walk(item.items, found, case=is_case, searched=is_case and item.items[0].word == "WHEN")
        elif item.word in {"WHERE", "HAVING"} or (
            item.word == "ON" and before != "DISTINCT" and rest[0].word != "CONFLICT"
        ):
            _operands(_until(rest, _ROWS_END), "true", found)
        elif (item.word in {"IF", "ELSIF", "WHILE"} and before != "END") or (
            item.word == "WHEN" and (searched or not case)
        ):
            _operands(_until(rest, _BRANCH_ENDS), "false", found)
        elif item.word == "WHEN":
            literal = _until(rest, _BRANCH_ENDS)
            found.add(_Change(literal[0].start, literal[-1].end, "NULL"))
        elif item.word in {":=", "RETURN"} and rest[0].word != "QUERY":
            _value(_until(rest, _words(";")), found)


def _arguments(group: _Group, found: set[_Change]) -> None:
    rest = group.items
    while rest and not group.is_statement:
        argument = _until(rest, _ARGUMENT_ENDS)
        _value(argument, found)
        rest = rest[len(argument) + 1 :]


def _value(items: list[_Item], found: set[_Change]) -> None:
    if any(item.word in _COMPARES for item in items):
        _operands(items, "false", found)


def _until(items: list[_Item], ends: frozenset[str]) -> list[_Item]:
    for at, item in enumerate(items):
        if isinstance(item, _Token) and item.word in ends:
            return items[:at]
    return items


def _split(items: list[_Item], word: str) -> list[list[_Item]]:
    parts: list[list[_Item]] = [[]]
    between = False
    for item in items:
        between = between or item.word == "BETWEEN"
        if item.word == word and not (between and word == "AND"):
            parts.append([])
        else:
            between = between and item.word != "AND"
            parts[-1].append(item)
    return parts


def _operands(items: list[_Item], mutant: str, found: set[_Change], *, whole: bool = False) -> None:
    """The smallest conditions in ``items``, and with ``whole`` themselves: they are an operand of something."""
    if not items:
        return
    is_negated = items[0].word == "NOT"
    inner = _unwrapped(items[is_negated:])
    joined = next(
        ((parts, neutral) for word, neutral in _NEUTRAL if len(parts := _split(inner or items, word)) > 1), None
    )
    if joined:
        if whole:
            found.add(_Change(items[0].start, items[-1].end, mutant))
        for part in joined[0]:
            _operands(part, joined[1], found, whole=True)
    elif inner and not is_negated:
        _operands(inner, mutant, found)
    elif [item.word for item in items] not in ([mutant.upper()], ["TRUE"]):
        found.add(_Change(items[0].start, items[-1].end, mutant))
        for at, item in enumerate(items):
            if item.word == "IN":
                _literals(items[:at], items[at + 1], found)


def _unwrapped(items: list[_Item]) -> list[_Item]:
    """What stands in the one pair of parentheses that ``items`` are, if they are one."""
    (item, *others) = items
    return item.items if isinstance(item, _Group) and item.word == "(" and not others and not item.is_statement else []


def _literals(compared: list[_Item], group: _Item, found: set[_Change]) -> None:
    if isinstance(group, _Token) or group.is_statement:
        return
    literals = [item for item in group.items if item.word != ","]
    of = " ".join(item.word.lower() if isinstance(item, _Token) else "..." for item in compared).replace(" . ", ".")
    if len(literals) > 1:
        for at, literal in enumerate(literals):
            start = literals[at - 1].end if at else literal.start
            end = literal.end if at else literals[1].start
            found.add(_Change(start, end, "", f"{of} in ({', '.join(_text(each) for each in literals)})"))


def _text(item: _Item) -> str:
    return item.text if isinstance(item, _Token) else "(...)"
