"""Every series of the admin page's process."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """Deeds by name and outcome, tries to sign in, sessions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.deeds = Counter(
            "flash_admin_deeds", "What was asked for by hand.", ["action", "outcome"], registry=self.registry
        )
        self.sign_ins = Counter(
            "flash_admin_sign_ins",
            "Tries to sign in: accepted, refused, throttled.",
            ["outcome"],
            registry=self.registry,
        )
        self.viewers = Gauge(
            "flash_admin_viewers",
            "Who looks at the operations page; while nobody does, nothing is read.",
            registry=self.registry,
        )
        self.sessions = Gauge("flash_admin_sessions", "Who is signed in, or was a while ago.", registry=self.registry)
