"""The `lambda-grpo` command."""
