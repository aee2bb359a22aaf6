"""What is asked: prompt templates, data sources, the built-in task and the benchmark registry."""
