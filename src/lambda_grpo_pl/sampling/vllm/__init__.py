"""The sampler that runs vLLM in process."""
