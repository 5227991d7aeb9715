"""Measurements that are run by hand, from the checkout's root: ``python -m benchmarks.layers``, for example."""
