"""What `GET /metrics` says, for Prometheus. No label holds an id.

variant: `champion`, and in an experiment `challenger` too.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "unigrec_requests", "Requests by address and HTTP status.", ["address", "status"], registry=registry
        )
        self.seconds = Histogram(
            "unigrec_request_seconds", "Time to an answer.", ["address"], buckets=SECONDS, registry=registry
        )
        self.waited = Histogram(
            "unigrec_queue_seconds", "Time that a question waits for a worker.", buckets=SECONDS, registry=registry
        )
        self.searched = Histogram("unigrec_batch_seconds", "Time of a batch.", buckets=SECONDS, registry=registry)
        self.batch = Histogram("unigrec_batch_histories", "Histories of a batch.", buckets=SIZES, registry=registry)
        self.queue = Gauge("unigrec_queue_histories", "Histories that wait.", ["variant"], registry=registry)
        self.answers = Counter(
            "unigrec_answers",
            "Replies to questions by the version that replied, and by how it was chosen.",
            ["variant", "version", "assigned", "status"],
            registry=registry,
        )
        self.answered = Histogram(
            "unigrec_answer_seconds",
            "Time from a question to its reply.",
            ["variant", "version"],
            buckets=SECONDS,
            registry=registry,
        )
        self.unknown = Counter("unigrec_unknown_items", "Items that the catalogue lacks.", registry=registry)
        self.popular = Counter("unigrec_answers_by_popularity", "Answers without a known item.", registry=registry)
        self.gone = Counter("unigrec_clients_gone", "Clients that left before their answer.", registry=registry)
        self.late = Counter("unigrec_deadlines_missed", "Requests without an answer in time.", registry=registry)
        self.workers = Gauge("unigrec_workers", "Workers that take batches.", ["variant"], registry=registry)
        self.lost = Counter("unigrec_workers_lost", "Workers that died.", ["variant"], registry=registry)
        self.model = Gauge(
            "unigrec_model",
            "1 for the models that answer.",
            ["variant", "version", "bundle", "data_version"],
            registry=registry,
        )
        self.changes = Counter(
            "unigrec_model_changes", "Models that were loaded, or were not.", ["variant", "result"], registry=registry
        )
        self.problem = Gauge(
            "unigrec_model_problem",
            "1 while another model answers than is asked for, or none.",
            ["variant"],
            registry=registry,
        )
        self.shown = Counter("unigrec_impressions", "Impressions that the log took.", registry=registry)
        self.unlogged = Counter(
            "unigrec_impressions_lost", "Impressions that the log has lost, by reason.", ["reason"], registry=registry
        )
        self.unwritten = Counter(
            "unigrec_impressions_write_failures", "Files of impressions that could not be written.", registry=registry
        )

    def page(self) -> bytes:
        return generate_latest(self.registry)
