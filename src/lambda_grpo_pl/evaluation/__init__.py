"""Evaluation: scores with intervals, records on disk, tables, and comparisons of runs."""
