"""What happened, in plain numbers: the hot path adds to them, and ``report.py`` tells them."""

from loadbalancer.timer import Timer


class Totals:
    """What happened so far, the balancer's own part; each server carries its own."""

    def __init__(self) -> None:
        self.clients_refused = 0
        self.address_refused = 0
        self.queue_late = 0
        self.refused: dict[int, int] = {}  # by status: what never got as far as a server
        self.failed: dict[int, int] = {}  # by status: what no server answered
        self.clients_gone = 0
        self.unasked = 0
        self.budget_empty = 0
        self.ended: dict[str, int] = {"--": 0}  # requests, by who ended them and when; `--` is an answer's own end
        self.request_seconds = Timer()
        self.queue_seconds = Timer()

    def refuse(self, status: int) -> None:
        """A client was told that its request is not taken."""
        self.refused[status] = self.refused.get(status, 0) + 1

    def fail(self, status: int) -> None:
        """A client was told that no server answered."""
        self.failed[status] = self.failed.get(status, 0) + 1

    def end(self, code: str) -> None:
        """A request has ended."""
        self.ended[code] = self.ended.get(code, 0) + 1
