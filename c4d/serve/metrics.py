"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from c4d.pipelines import Step
from c4d.serve.jobs import Job

SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.jobs = Counter("c4d_jobs", "Jobs that are over, by how they ended", ["status"], registry=registry)
        self.refused = Counter("c4d_refused", "Jobs that the queue had no room for", registry=registry)
        self.restarts = Counter("c4d_worker_restarts", "Workers that were started again", registry=registry)
        self.steps = Counter("c4d_steps", "Denoising steps, computed or forecast", ["kind"], registry=registry)
        self.calls = Counter(
            "c4d_http_requests", "Answers, by route and status", ["route", "status"], registry=registry
        )
        self.seconds = Histogram("c4d_job_seconds", "From a job's begin to its end", buckets=SECONDS, registry=registry)
        self.waited = Histogram(
            "c4d_job_wait_seconds", "From a job's arrival to its begin", buckets=SECONDS, registry=registry
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """One more figure, asked for whenever it is read."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def step(self, step: Step) -> None:
        self.steps.labels("computed" if step.computed else "forecast").inc()

    def over(self, job: Job) -> None:
        self.jobs.labels(job.status).inc()
        if job.begun is not None and job.ended is not None:
            self.seconds.observe(job.ended - job.begun)

    def text(self) -> bytes:
        return generate_latest(self._registry)
