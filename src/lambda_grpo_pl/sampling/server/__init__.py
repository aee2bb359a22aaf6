"""Sampling on vLLM servers, on this machine or others: a client for each, work spread over them, weights by files."""
