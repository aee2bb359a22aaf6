"""A sampler in a separate process: the client in the trainer, the worker, and the memory they share."""
