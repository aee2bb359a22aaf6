"""What a run needs before it starts: memory per device, from the configuration alone. No weights are loaded."""
