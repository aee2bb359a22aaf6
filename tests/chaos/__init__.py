"""Kills runs at random moments, resumes them, and compares them with the run that nothing interrupted.

    python -m tests.chaos --runs 25 --seed 0

Each run is the command line's own, on a tiny random policy. It dies by SIGKILL: nothing is saved on the way out.
"""
