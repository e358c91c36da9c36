"""Evaluation: benchmarks, scores with their intervals, pages."""
