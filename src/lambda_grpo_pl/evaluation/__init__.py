"""Scores nobody can dispute: per-question metrics, intervals, records, tables and comparisons of runs."""
