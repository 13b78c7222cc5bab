"""What is asked of an event stream, and the test that holds it: a rule without its test fails here, and so does a renamed test.

The format is WHATWG HTML §9.2. Latency is measured by ``./flash bench``, and no test asserts it.
"""

import ast

import pytest

from flashsale.settings import REPOSITORY

UNIT_WIRE, UNIT_HUB = "unit/stream/test_wire.py", "unit/stream/test_hub.py"
CONTRACT, FAILURE, CROWD = (
    "contract/test_stock_stream.py",
    "failure/test_stock_stream.py",
    "failure/test_stream_crowd.py",
)
BALANCER = "failure/test_loadbalancer_streams.py"

RULES: dict[str, tuple[str, str]] = {
    # the format
    "every byte of a frame": (UNIT_WIRE, "test_the_frames"),
    "retry in digits, another one for each": (UNIT_HUB, "test_browsers_are_told_different_times_to_come_back"),
    "200 or 204, no other status ends a browser's stream by mistake": (
        CONTRACT,
        "test_what_cannot_be_streamed_is_the_same_answer_from_all",
    ),
    "who gets no place hears 200, retry and the end": (
        CONTRACT,
        "test_places_are_bounded_and_who_gets_none_comes_back_later",
    ),
    "an id is true after each event": (
        UNIT_HUB,
        "test_only_what_changed_is_told_with_an_id_that_is_true_after_each_event",
    ),
    "an id that is garbage is harmless": (CONTRACT, "test_who_comes_back_is_told_what_it_missed_and_no_more"),
    "CR, LF and NUL in any field": (CONTRACT, "test_a_line_break_in_any_field_plants_no_event"),
    "no name breaks out of its line": (UNIT_WIRE, "test_no_name_breaks_out_of_its_line"),
    "type, charset, no store, no transform, no buffer, no compression; the first words at once": (
        CONTRACT,
        "test_a_viewer_sees_everything_at_once_and_then_what_changes",
    ),
    "a heartbeat that a page can see": (CONTRACT, "test_a_quiet_stream_beats_and_tells_how_fresh_it_is"),
    "HTTP/1.0": (CONTRACT, "test_an_old_client_gets_the_same_events_without_chunks"),
    # what is shown
    "encoded once": (UNIT_HUB, "test_viewers_of_the_same_items_get_the_same_bytes"),
    "conflated": (UNIT_HUB, "test_a_slow_viewer_is_spared_what_is_old_and_gets_the_latest_in_one_frame"),
    "never backwards, and the last state arrives": (
        UNIT_HUB,
        "test_whatever_happens_nobody_goes_back_and_everybody_ends_at_the_truth",
    ),
    "snapshot, then steps, without a gap while stock moves": (
        CROWD,
        "test_who_comes_while_stock_moves_misses_nothing_between_snapshot_and_steps",
    ),
    "resume by header and by query": (CONTRACT, "test_who_comes_back_is_told_what_it_missed_and_no_more"),
    "resume at another server": (CROWD, "test_who_comes_back_to_another_server_is_told_what_it_missed_and_no_more"),
    "the age of the data while a store is away": (
        FAILURE,
        "test_stores_that_are_away_make_numbers_old_and_never_wrong",
    ),
    # crowds
    "who stalls costs less than 32 KiB and is dropped": (
        CROWD,
        "test_a_stalled_viewer_costs_less_than_32_kib_and_is_dropped_and_the_others_go_on",
    ),
    "two thousand idle ones": (CROWD, "test_two_thousand_who_only_sit_there_cost_less_than_32_kib_each"),
    "places per process and address": (UNIT_HUB, "test_places_are_bounded_per_process_and_per_address"),
    "one turn of the loop does a bounded amount": (
        UNIT_HUB,
        "test_one_turn_does_a_bounded_amount_of_work_and_nobody_is_forgotten",
    ),
    "who left silently gives its place back": (UNIT_HUB, "test_a_viewer_that_left_gives_its_place_back"),
    # ends
    "a stop is spread over its time": (UNIT_HUB, "test_a_drain_says_bye_to_everybody_spread_over_its_time"),
    "a stop behind the balancer: reconnects are spread, nothing is missed; the end of a sale is 204 and nobody's next request": (
        CROWD,
        "test_a_server_that_stops_behind_the_balancer_loses_nobody_anything_and_the_end_of_the_sale_ends_it_all",
    ),
    "a sale that ends": (CONTRACT, "test_when_its_sale_ends_a_viewer_hears_it_and_the_next_is_sent_away"),
    # through the balancer
    "every byte at once": (BALANCER, "test_60_and_66_the_head_and_every_byte_of_an_event_come_when_they_are_sent"),
    "not cut by the time an answer may take": (
        "failure/test_loadbalancer.py",
        "test_events_come_as_they_are_sent_and_are_not_cut_by_the_response_timeout",
    ),
    "who leaves is missed by the server": (
        BALANCER,
        "test_64_a_viewer_that_leaves_is_missed_by_the_server_though_nothing_is_sent",
    ),
    "streams do not crowd out purchases": (
        "failure/test_loadbalancer_capacity.py",
        "test_streams_and_long_polls_take_nobodys_place_and_a_purchase_that_waits_does",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_its_test(rule: str) -> None:
    path, name = RULES[rule]
    tree = ast.parse((REPOSITORY / "tests" / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
