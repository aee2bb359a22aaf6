"""Rollouts that were trained on: how they are kept, read, and learned from again."""
