"""Prometheus metrics of one application, in a registry of its own. Knows the engine as a source of sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from index.meter import RecallReport

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_METHODS = frozenset(("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"))


@dataclass(frozen=True, slots=True)
class Sizes:
    """One collection as the metrics show it; bytes are of files on disk, recall is that of live searches."""

    collection: str
    points: int
    indexed: int
    vector_bytes: int
    record_bytes: int
    code_bytes: int
    recall: RecallReport


@dataclass(frozen=True, slots=True)
class TextCounts:
    """Query texts since the start: with a known vector, without one, and the calls of encoders for the latter."""

    hits: int
    misses: int
    calls: int


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that collections take in memory, by name, and what all of them may take; None: any."""

    collections: Mapping[str, int]
    limit: int | None


class Metrics:
    """Counts requests, and reads what `watch` names when it is scraped."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "bitfold_requests", "Requests by route, method and status", ["route", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "bitfold_request_seconds", "Seconds from the first byte of a request to its answer", ["route"],
            registry=self._registry, buckets=_BUCKETS,
        )  # fmt: skip
        # Finding the counters by their labels takes longer than counting. As few as the labels have values.
        self._parts: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (route, method if method in _METHODS else "other", status)
        parts = self._parts.get(key)
        if parts is None:
            count = self._requests.labels(route, key[1], str(status))
            parts = self._parts[key] = (count, self._seconds.labels(route))
        parts[0].inc()
        parts[1].observe(seconds)

    def watch(
        self,
        sizes: Callable[[], Iterable[Sizes]],
        jobs: Callable[[], Mapping[str, int]],
        texts: Callable[[], TextCounts],
        memory: Callable[[], MemoryUse],
    ) -> None:
        """Show sizes and memory of collections, jobs by state and what became of query texts from now on."""
        self._registry.register(_Watched(sizes, jobs, texts, memory))

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)


class _Watched(Collector):
    def __init__(
        self,
        sizes: Callable[[], Iterable[Sizes]],
        jobs: Callable[[], Mapping[str, int]],
        texts: Callable[[], TextCounts],
        memory: Callable[[], MemoryUse],
    ) -> None:
        self._sizes = sizes
        self._jobs = jobs
        self._texts = texts
        self._memory = memory

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not ask for sizes."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read sizes and numbers and yield them."""
        points = GaugeMetricFamily("bitfold_points", "Points of a collection", labels=["collection"])
        indexed = GaugeMetricFamily("bitfold_indexed_points", "Points that have codes", labels=["collection"])
        disk = GaugeMetricFamily("bitfold_disk_bytes", "Bytes on disk by part", labels=["collection", "part"])
        recall = GaugeMetricFamily(
            "bitfold_recall", "Share of the true best that live searches find", labels=["collection", "filtered"]
        )
        lost = GaugeMetricFamily(
            "bitfold_recall_lost", "Share of the true best that is not found", labels=["collection", "by"]
        )
        for size in self._sizes():
            _add_recall(recall, lost, size)
            points.add_metric([size.collection], size.points)
            indexed.add_metric([size.collection], size.indexed)
            disk.add_metric([size.collection, "vectors"], size.vector_bytes)
            disk.add_metric([size.collection, "record"], size.record_bytes)
            disk.add_metric([size.collection, "codes"], size.code_bytes)
        jobs = GaugeMetricFamily("bitfold_jobs", "Jobs by state", labels=["state"])
        for state, count in self._jobs().items():
            jobs.add_metric([state], count)
        counts = self._texts()
        texts = CounterMetricFamily("bitfold_query_texts", "Query texts, with a known vector or not", labels=["cached"])
        texts.add_metric(["true"], counts.hits)
        texts.add_metric(["false"], counts.misses)
        calls = CounterMetricFamily("bitfold_query_encodings", "Calls of encoders for query texts that were not known")
        calls.add_metric([], counts.calls)
        yield from (points, indexed, disk, recall, lost, jobs, texts, calls, *_memory(self._memory()))


def _memory(use: MemoryUse) -> Iterator[Metric]:
    taken = GaugeMetricFamily("bitfold_memory_bytes", "Bytes in memory of a collection", labels=["collection"])
    for name, size in use.collections.items():
        taken.add_metric([name], size)
    yield taken
    if use.limit is not None:
        yield GaugeMetricFamily(
            "bitfold_memory_limit_bytes", "Bytes in memory that all collections may take", value=use.limit
        )


def _add_recall(recall: GaugeMetricFamily, lost: GaugeMetricFamily, size: Sizes) -> None:
    found = size.recall
    for filtered, value in (("any", found.recall), ("true", found.filtered_recall)):
        if value is not None:
            recall.add_metric([size.collection, filtered], value)
    causes = {"codes": found.lost_by_codes, "probing": found.lost_by_probing, "filters": found.lost_by_filters}
    for cause, value in causes.items():
        if value is not None:
            lost.add_metric([size.collection, cause], value)
