from flashsale.contract.verdict import ANSWERS, DECIDED, PRECEDENCE, Verdict


def test_every_verdict_has_an_answer() -> None:
    assert set(ANSWERS) == set(Verdict)


def test_only_yes_and_queued_are_successes() -> None:
    assert {verdict for verdict, answer in ANSWERS.items() if answer.status < 400} == {
        Verdict.QUEUED,
        Verdict.HELD,
        Verdict.REPLAYED,
    }


def test_precedence_names_each_verdict_once_and_ends_with_yes() -> None:
    assert len(set(PRECEDENCE)) == len(PRECEDENCE)
    assert PRECEDENCE[-1] is Verdict.HELD


def test_what_decides_nothing_is_never_recorded() -> None:
    assert not DECIDED & {Verdict.TRY_LATER, Verdict.IN_FLIGHT}
