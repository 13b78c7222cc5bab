"""The auditor that never stops: passes over all sales while they go on, and a memory of what was ever wrong for good.

Law: a violation stays in the report until the process ends, even if somebody has put it right since: it was one.
"""

import time
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from flashsale.proof.auditor import Look, Patience, Sources, by_finding, by_invariant, look_while_moving
from flashsale.proof.evidence import EvidenceError
from flashsale.proof.findings import Tally
from flashsale.proof.invariants import FINDINGS, RULE, RULES
from flashsale.proof.stores import StoreUnreachableError

# A pass is followed by a pause four times as long, so that watching takes a fifth of one core at most.
PAUSE_PER_PASS = 4
PAUSE_S_MIN = 2.0
PAUSE_S_MAX = 30.0
FRESH_S = 120.0  # a last good pass older than this proves nothing of now: the longest pass and the longest pause
WATCHED_RULES = tuple(rule for rule in RULES if not rule.at_rest)

log = structlog.get_logger()


class Metrics:
    """Every series of this role."""

    def __init__(self, age: Any) -> None:
        self.registry = CollectorRegistry()
        self.findings = Gauge(
            "flash_audit_findings", "Things wrong for good in the last pass.", ["finding"], registry=self.registry
        )
        self.settling = Gauge(
            "flash_audit_settling",
            "Things in the last pass that may still be put right.",
            ["finding"],
            registry=self.registry,
        )
        self.violations = Gauge(
            "flash_audit_violations", "Rules broken for good since the start.", registry=self.registry
        )
        self.passes = Counter("flash_audit_passes", "Passes that came to an end.", registry=self.registry)
        self.failed = Counter(
            "flash_audit_failed_passes", "Passes that met a store that was away or damaged.", registry=self.registry
        )
        self.seconds = Gauge("flash_audit_pass_seconds", "How long the last pass took.", registry=self.registry)
        Gauge("flash_audit_age_seconds", "Since the last good pass began.", registry=self.registry).set_function(age)


class Watch:
    """Rounds of passes. Bounded: one violation is kept per rule, the first, with its highest count."""

    def __init__(self, sources: Sources) -> None:
        self.metrics = Metrics(lambda: self._age_s)
        self._sources = sources
        self._patience = Patience(float("inf"))
        self._began = time.monotonic()
        self._looked_at = float("-inf")
        self._look: Look | None = None
        self._confirmed: list[Tally] = []
        self._passes = 0
        self._failed = 0
        self._violations: dict[str, dict[str, Any]] = {}

    @property
    def ready(self) -> bool:
        """Has a recent pass come to its end?"""
        return self._look is not None and self._age_s < FRESH_S

    async def round(self) -> float:
        """One pass; the seconds until the next."""
        begin = time.monotonic()
        try:
            look = await look_while_moving(self._sources, WATCHED_RULES, self._look.seqs if self._look else {})
        except (StoreUnreachableError, EvidenceError) as error:
            # What was settling may have been unable to: its time counts from when everything can be seen again.
            self._patience = Patience(float("inf"))
            self._failed += 1
            self.metrics.failed.inc()
            log.warning("audit.pass_failed", reason=str(error))
            return PAUSE_S_MIN
        self._note(look, begin)
        took = time.monotonic() - begin
        self.metrics.seconds.set(took)
        return min(max(PAUSE_S_MIN, PAUSE_PER_PASS * took), PAUSE_S_MAX)

    def _note(self, look: Look, at: float) -> None:
        self._look, self._looked_at = look, at
        self._passes += 1
        self.metrics.passes.inc()
        self._confirmed = self._patience.confirmed(look.tallies, at)
        for tally in self._confirmed:
            if tally.rule not in self._violations:
                log.error("audit.violation", rule=tally.rule, number=tally.number, first=tally.texts[0])
                since = datetime.now(UTC).isoformat()
                self._violations[tally.rule] = {"since": since, "count": 0, "witnesses": list(tally.texts)}
            kept = self._violations[tally.rule]
            kept["count"] = max(kept["count"], tally.number)
        self.metrics.violations.set(len(self._violations))
        now, settling = by_finding(self._confirmed), by_finding(t for t in look.tallies if t not in self._confirmed)
        for name in FINDINGS:
            self.metrics.findings.labels(name).set(now[name].number)
            self.metrics.settling.labels(name).set(settling[name].number)

    def report(self) -> dict[str, Any]:
        """What is known, for people and scripts; ``clean`` is about everything since the start."""
        look = self._look
        return {
            "clean": not self._violations,
            "ready": self.ready,
            "passes": self._passes,
            "failed_passes": self._failed,
            "age_s": None if look is None else round(self._age_s, 1),
            "scope": {} if look is None else look.scope,
            "violations": [
                {"rule": rule, "invariant": RULE[rule].invariant, "finding": RULE[rule].finding, **kept}
                for rule, kept in self._violations.items()
            ],
            "findings": {name: finding.number for name, finding in by_finding(self._confirmed).items()},
            "invariants": [] if look is None else by_invariant(look),
        }

    @property
    def _age_s(self) -> float:
        return time.monotonic() - (self._began if self._look is None else self._looked_at)
