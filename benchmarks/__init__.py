"""Benchmarks. Each prints its figures with others to compare them with, measured in the same run."""
