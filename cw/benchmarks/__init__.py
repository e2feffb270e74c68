"""Benchmarks of executors: how well they keep time, each figure beside its limit."""
