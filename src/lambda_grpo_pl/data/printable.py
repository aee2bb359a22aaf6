"""Text that a data set or a model wrote, made safe for a terminal."""

from __future__ import annotations

STAND_IN = "\N{REPLACEMENT CHARACTER}"


def show_controls(text: str) -> str:
    """Return a text with a visible character for each that a terminal obeys instead of showing.

    Escape sequences clear screens, set titles and hide what follows; marks of writing direction turn text around. Line
    breaks and tabs stay.
    """
    return "".join(each if each.isprintable() or each in "\n\t" else STAND_IN for each in text)
