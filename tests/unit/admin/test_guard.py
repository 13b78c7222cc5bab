"""Which requests are ours, by their head alone."""

import pytest

from flashsale.admin.guard import Door, is_token

PLAIN = Door.at("", 7080)
MOVED = Door.at("http://127.0.0.1:7099", 8080)
TLS = Door.at("https://admin.example", 7080)


@pytest.mark.parametrize(
    ("door", "ours", "others"),
    [
        (PLAIN, ["127.0.0.1:7080", "localhost:7080", "LOCALHOST:7080", "[::1]:7080"], ["127.0.0.1", "127.0.0.1:8080", "evil.example:7080"]),
        (MOVED, ["127.0.0.1:7099", "localhost:7099"], ["127.0.0.1:8080", "localhost"]),
        (TLS, ["admin.example"], ["127.0.0.1:7080", "localhost:7080", "admin.example:80", "admin.example.evil"]),
    ],
)  # fmt: skip
def test_a_host_is_ours_by_name_and_port(door: Door, ours: list[str], others: list[str]) -> None:
    assert all(map(door.is_ours, ours))
    assert not any(map(door.is_ours, [*others, "", None]))


def test_an_origin_is_ours_in_full() -> None:
    assert all(map(PLAIN.is_from_us, ["http://127.0.0.1:7080", "http://localhost:7080", "http://[::1]:7080"]))
    others = [None, "", "null", "http://127.0.0.1:8080", "https://127.0.0.1:7080", "http://evil.example:7080"]
    assert not any(map(PLAIN.is_from_us, others))
    assert TLS.is_from_us("https://admin.example")
    assert not TLS.is_from_us("http://admin.example")


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://Admin.Example.com", "https://admin.example.com"),
        ("https://admin.example:443", "https://admin.example"),
        ("https://admin.example:8443", "https://admin.example:8443"),
    ],
)
def test_an_origin_is_compared_as_a_browser_says_it(given: str, origin: str) -> None:
    door = Door.at(given, 7080)
    assert door.is_from_us(origin)
    assert door.is_ours(origin.removeprefix("https://"))


def test_behind_tls_the_cookie_is_bound_to_the_host() -> None:
    assert TLS.is_tls
    assert TLS.cookie.startswith("__Host-")
    assert not PLAIN.is_tls


def test_a_token_is_compared_whole() -> None:
    assert is_token("abc", "abc")
    assert not any(is_token(given, "abc") for given in (None, "", "ab", "abcd", "é"))
