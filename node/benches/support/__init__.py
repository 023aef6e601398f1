"""What the benchmarks share: processes that are always cleaned up, clusters, load, and reports."""
