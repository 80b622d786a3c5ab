"""Benchmarks. Each one prints every figure next to a figure to compare it with, measured in the same run."""
