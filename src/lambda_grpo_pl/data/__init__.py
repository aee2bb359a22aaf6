"""Prompts: data sources and readers, prompt templates, benchmarks, and the data module."""
