"""How much a server that has come back gets at first: its caches are cold, and everything at once would take it out again."""

LEAST_PERCENT = 10  # or who has few requests to give would give it none, and it would stay cold


def warmth(back_for_s: float, window_s: float) -> int:
    """The per cent of its weight, and of its limit, that it gets after so long: in a straight line up to all of it."""
    if back_for_s >= window_s:
        return 100
    return max(LEAST_PERCENT, int(100 * back_for_s / window_s))
