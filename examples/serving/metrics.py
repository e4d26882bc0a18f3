"""What a server tells Prometheus; the names are those of docs/serving.md."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import tap_ext


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runs = self._counter("tap_ext_runs", "Runs.", "pipeline", "error")
        self._calls = self._counter("tap_ext_calls", "Transformer calls.", "pipeline", "kind")
        self._fallbacks = self._counter(
            "tap_ext_fallbacks", "Calls run untouched.", "pipeline", "reason"
        )
        self._seconds = Histogram(
            "tap_ext_run_seconds", "Length of a run.", ["pipeline"], registry=self.registry
        )
        self.refused = Counter(
            "refused_requests", "Sent away with 503.", [], registry=self.registry
        )
        self.pending = Gauge("pending_requests", "Waiting or running.", registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def observe(self, record: tap_ext.RunRecord) -> None:
        """Takes what ``tap_ext.on_run`` tells."""
        self._runs.labels(record.name, record.error or "").inc()
        self._calls.labels(record.name, "full").inc(record.full)
        self._calls.labels(record.name, "skipped").inc(record.skipped)
        self._calls.labels(record.name, "untouched").inc(record.untouched)
        for reason, count in record.fallbacks.items():
            self._fallbacks.labels(record.name, reason).inc(count)
        self._seconds.labels(record.name).observe(record.seconds)
