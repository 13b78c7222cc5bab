"""What upkeep counts, one registry per process. Prometheus's conventions: seconds, ``_total``."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """Every series of this role."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.applied_rows = Counter("flash_gate_applied_rows", "Ledger rows brought to a gate.", registry=self.registry)
        self.lag_rows = Gauge(
            "flash_gate_lag_rows", "Ledger rows a gate lacked when read.", ["sku"], registry=self.registry
        )
        self.rebuilds = Counter(
            "flash_gate_rebuilds", "Gates replaced by PostgreSQL's image.", ["cause"], registry=self.registry
        )
        self.rebuild_seconds = Gauge(
            "flash_gate_rebuild_seconds", "How long the last rebuild took.", registry=self.registry
        )
        self.voided = Counter("flash_gate_voided", "Abandoned attempts fenced in PostgreSQL.", registry=self.registry)
        self.settled = Counter("flash_gate_settled", "Abandoned debits settled by upkeep.", registry=self.registry)
        self.pending = Gauge(
            "flash_gate_pending", "Attempts debited and not settled.", ["sale"], registry=self.registry
        )
        self.drift_units = Gauge(
            "flash_gate_drift_units",
            "Units the gate has more than PostgreSQL, where the two can be compared.",
            ["sku"],
            registry=self.registry,
        )
        self.expired = Counter(
            "flash_holds_expired", "Holds ended because their deadline passed.", registry=self.registry
        )
        self.payments_voiding = Counter(
            "flash_payments_voiding", "Payments asked to be voided because their hold was over.", registry=self.registry
        )
        self.payments_resumed = Counter(
            "flash_payments_resumed", "Open payments about which a new message was sent.", registry=self.registry
        )
        self.relayed = Counter("flash_outbox_relayed", "Events the broker confirmed.", registry=self.registry)
        self.refused = Counter(
            "flash_outbox_refused", "Events the broker did not take, as a full queue does.", registry=self.registry
        )
        self.broker_up = Gauge("flash_broker_up", "1 while RabbitMQ takes events.", registry=self.registry)
        self.road_open_seconds = Gauge(
            "flash_road_open_seconds",
            "For how long by now every look found a payment worker consuming; what was sent since may be voided at once.",
            registry=self.registry,
        )
        self.last_good_round = Gauge(
            "flash_gate_last_good_round_timestamp_seconds",
            "When a round last found every gate in order.",
            registry=self.registry,
        )

    def forget(self, sale: str, skus: tuple[str, ...]) -> None:
        """Drop the series of a sale that is over, or they would stay for the life of the process."""
        for gauge in (self.lag_rows, self.drift_units):
            for sku in skus:
                gauge.remove(sku)
        self.pending.remove(sale)
