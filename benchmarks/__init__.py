"""Benchmarks: every figure beside another of the same run. ``python -m benchmarks`` runs all."""
