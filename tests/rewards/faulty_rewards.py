"""Rewards that fail in the ways a verifier can; importable by workers."""

import os
import signal
import time


def echo(value):
    return value


def obey(order):
    """Sleep, crash, raise, eat memory or disarm alarms, as told; otherwise echo."""
    if order == "hang":
        time.sleep(3600)
    if order == "hang deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(0)
        while True:
            9**9**7
    if order == "crash":
        os._exit(3)
    if order == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if order == "raise":
        raise ZeroDivisionError("as told")
    if order == "exit":
        raise SystemExit(0)
    if order == "eat":
        return len(bytearray(64 << 30))
    if order == "pid":
        return os.getpid()
    if order == "print":
        print("a stray line on stdout")
    return order


def by_text(completion, example):
    """A user's reward: right if the completion is the answer, with obey's faults."""
    return obey(completion) == example["answer"]


def not_finite(completion, example):
    return float("nan")


def leave_a_mark(completion, example):
    """Right, and leaves an empty file under the completion's name."""
    open(completion, "w").close()
    return 1.0
