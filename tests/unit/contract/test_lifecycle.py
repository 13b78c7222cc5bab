import itertools

from flashsale.contract.lifecycle import HOLDING, TRANSITIONS, Event, State, move


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_units_move_exactly_when_a_purchase_starts_or_stops_holding() -> None:
    for state, row in TRANSITIONS.items():
        for event, step in row.items():
            expected = (state in HOLDING) - (step.state in HOLDING)
            assert step.units == expected, (state, event)


def test_a_message_told_twice_changes_nothing() -> None:
    # LATE_MONEY is the exception by design: each is money of its own, and answered by its own payment try
    for event in set(Event) - {Event.LATE_MONEY, Event.PAY, Event.DECLINE}:
        for state in State:
            first = move(state, event)
            if first is not None:
                second = move(first.state, event)
                assert second is None or second == (first.state, 0), (state, event)


def test_no_path_returns_a_unit_twice() -> None:
    # walk every path of five events and keep the books
    for path in itertools.product(Event, repeat=5):
        state, units = State.HELD, -1
        for event in path:
            step = move(state, event)
            if step is None:
                continue
            state, units = step.state, units + step.units
            assert units in {-1, 0}
            assert (units == -1) == (state in HOLDING)
