"""Published benchmarks, one a file: each is a :class:`c4d.pipelines.benchmark.Benchmark`, found by its name.

Those of other packages are here, too: entry points of the group ``c4d.benchmarks``.
"""

from __future__ import annotations

from c4d.core.registry import Registry
from c4d.pipelines.benchmark import Benchmark

BENCHMARKS: Registry[Benchmark] = Registry("c4d.benchmarks", __name__, Benchmark, lambda found: found.name)

__all__ = ["BENCHMARKS"]
