"""What became of an attempt: the answer to whoever holds its receipt, the same from either backend."""

from typing import NamedTuple

from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Purchase


class Standing(NamedTuple):
    """An attempt's verdict as recorded (None: undecided), and the purchase of its key, if there is one."""

    verdict: str | None
    fingerprint: bytes | None
    purchase: Purchase | None

    def answer(self, fingerprint: bytes) -> Verdict:
        """What to tell the maker of an attempt with this fingerprint; QUEUED while nothing is decided.

        A purchase outranks the attempt's own verdict: a key that was refused once and held later is held.
        """
        if self.purchase is not None:
            if self.fingerprint != fingerprint:
                return Verdict.KEY_REUSED
            return Verdict.HELD if self.verdict == Verdict.HELD else Verdict.REPLAYED
        if self.verdict is None:
            return Verdict.QUEUED
        # fenced, or set aside as unreadable: nothing was decided and nothing will be
        return Verdict.TRY_LATER if self.verdict == "void" else Verdict(self.verdict)
