"""The reader of SQL that the list of predicates stands on."""

import pytest

from tests.predicates import predicates_of

FUNCTION = "CREATE FUNCTION f(p integer) RETURNS void LANGUAGE plpgsql AS $$\nBEGIN\n    {}\nEND $$;\n"


def found(body: str) -> dict[str, str]:
    """What is taken out, and the body without it."""
    head, tail = FUNCTION.replace("CREATE", "CREATE OR REPLACE", 1).strip().split("{}")
    return {
        predicate.name.removeprefix("f: "): predicate.statement.removeprefix(head).removesuffix(tail)
        for predicate in predicates_of(FUNCTION.format(body))
    }


@pytest.mark.parametrize(
    ("body", "mutants"),
    [
        # rows are chosen by true, branches by false
        ("PERFORM 1 FROM t WHERE a = 1;", {"a = 1 -> true": "PERFORM 1 FROM t WHERE true;"}),
        (
            "PERFORM 1 FROM t JOIN u ON t.a = u.a ORDER BY 1;",
            {"t.a = u.a -> true": "PERFORM 1 FROM t JOIN u ON true ORDER BY 1;"},
        ),
        ("IF a < b THEN x := 1; END IF;", {"a < b -> false": "IF false THEN x := 1; END IF;"}),
        ("CONTINUE WHEN a IS NULL;", {"a IS NULL -> false": "CONTINUE WHEN false;"}),
        ("x := a IS NULL;", {"a IS NULL -> false": "x := false;"}),
        ("x := sum(n) FILTER (WHERE k = 1);", {"k = 1 -> true": "x := sum(n) FILTER (WHERE true);"}),
        # what joins an operand says what is neutral; operands that are joined themselves go as a whole, too
        (
            "IF a = 1 OR b = 2 AND NOT c THEN END IF;",
            {
                "a = 1 -> false": "IF false OR b = 2 AND NOT c THEN END IF;",
                "b = 2 AND NOT c -> false": "IF a = 1 OR false THEN END IF;",
                "b = 2 -> true": "IF a = 1 OR true AND NOT c THEN END IF;",
                "NOT c -> true": "IF a = 1 OR b = 2 AND true THEN END IF;",
            },
        ),
        (
            "IF a = 1 AND NOT (b = 2 OR c) THEN END IF;",
            {
                "a = 1 -> true": "IF true AND NOT (b = 2 OR c) THEN END IF;",
                "NOT (b = 2 OR c) -> true": "IF a = 1 AND true THEN END IF;",
                "b = 2 -> false": "IF a = 1 AND NOT (false OR c) THEN END IF;",
                "c -> false": "IF a = 1 AND NOT (b = 2 OR false) THEN END IF;",
            },
        ),
        (
            "IF a BETWEEN 1 AND 2 AND b THEN END IF;",
            {
                "a BETWEEN 1 AND 2 -> true": "IF true AND b THEN END IF;",
                "b -> true": "IF a BETWEEN 1 AND 2 AND true THEN END IF;",
            },
        ),
        # a subquery is an operand, and so is what is in it
        (
            "IF EXISTS (SELECT FROM t WHERE a = 1) THEN END IF;",
            {
                "EXISTS (SELECT FROM t WHERE a = 1) -> false": "IF false THEN END IF;",
                "a = 1 -> true": "IF EXISTS (SELECT FROM t WHERE true) THEN END IF;",
            },
        ),
        # CASE: conditions, or literals of one value
        (
            "x := CASE WHEN a = 1 THEN 'y' ELSE 'n' END;",
            {"a = 1 -> false": "x := CASE WHEN false THEN 'y' ELSE 'n' END;"},
        ),
        ("x := CASE a WHEN 'b' THEN 1 END;", {"'b' -> NULL": "x := CASE a WHEN NULL THEN 1 END;"}),
        (
            "CASE a WHEN 'b' THEN IF c THEN RETURN; END IF; END CASE;",
            {
                "'b' -> NULL": "CASE a WHEN NULL THEN IF c THEN RETURN; END IF; END CASE;",
                "c -> false": "CASE a WHEN 'b' THEN IF false THEN RETURN; END IF; END CASE;",
            },
        ),
        # a list of literals loses each once
        (
            "IF a NOT IN ('b', 'c') THEN END IF;",
            {
                "a NOT IN ('b', 'c') -> false": "IF false THEN END IF;",
                "a not in ('b', 'c') without 'b'": "IF a NOT IN ('c') THEN END IF;",
                "a not in ('b', 'c') without 'c'": "IF a NOT IN ('b') THEN END IF;",
            },
        ),
        # what is said twice has a number
        (
            "IF a THEN END IF; IF a THEN END IF;",
            {
                "a -> false": "IF false THEN END IF; IF a THEN END IF;",
                "a -> false #2": "IF a THEN END IF; IF false THEN END IF;",
            },
        ),
        # none of these is a condition
        ("INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING;", {}),
        ("UPDATE t SET a = b FROM u LEFT JOIN v USING (a);", {}),
        ("SELECT DISTINCT ON (a) a INTO x FROM t CROSS JOIN u ORDER BY a;", {}),
        ("x := f(a => 1, b => 2); -- WHERE a = 1", {}),
        ("x := 'WHERE a = 1 AND b'; /* IF a THEN */", {}),
        ("PERFORM 1 FROM t LEFT JOIN u ON true;", {}),
    ],
)
def test_each_condition_is_found_and_taken_out(body: str, mutants: dict[str, str]) -> None:
    assert found(body) == mutants


def test_views_and_triggers_have_conditions_too() -> None:
    sql = """
        CREATE TABLE t (a integer CHECK (a > 0));
        CREATE INDEX i ON t (a) WHERE a = 1;
        CREATE VIEW v AS SELECT a FROM t WHERE a = 1;
        CREATE TRIGGER g AFTER UPDATE OF a ON t FOR EACH ROW WHEN (NEW.a <> 1) EXECUTE FUNCTION f();
    """
    one, two = predicates_of(sql)
    assert (one.name, one.statement.strip()) == (
        "v: a = 1 -> true",
        "CREATE OR REPLACE VIEW v AS SELECT a FROM t WHERE true;",
    )
    assert two.name == "g on t: NEW.a <> 1 -> false"
    assert two.statement.strip().startswith("CREATE OR REPLACE TRIGGER g")
    assert "WHEN (false)" in two.statement


def test_a_long_condition_is_named_by_its_ends() -> None:
    (name,) = found(f"IF {' + '.join(f'a{n}' for n in range(60))} THEN END IF;")
    assert name.startswith("a0 + a1")
    assert name.endswith("a59 -> false")
    assert len(name) < 150
