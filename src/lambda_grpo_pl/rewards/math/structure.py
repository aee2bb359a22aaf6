r"""The structure of a normalized answer: lists, assignments, systems, tuples, vectors. Strings only, no algebra."""

from __future__ import annotations

import re

OPENING, CLOSING = "([{", ")]}"
RELATION = re.compile(r"<|>|\\(?:le|ge|lt|gt|ne|leq|geq|neq|leqslant|geqslant)\b|!=")

_NAME = r"(?:\\?[A-Za-z]+(?:_(?:\w|\{[^{}]*\}))?'?(?:\s*\([\w\s,]*\))?|\([A-Za-z\s,_\d]+\))"
_ASSIGNMENT = re.compile(rf"\s*({_NAME})\s*(?:=|\\in\b|\\approx\b|:=)\s*(.+)", re.DOTALL)
_JOINING = re.compile(r"\\(?:text|mathrm)\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|\band\b|\bor\b")
_VECTOR = re.compile(r"\\begin\{([pb]matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_POINT = re.compile(r"[A-Z](?:'|_\w)?\s*(\(.*,.*\))", re.DOTALL)
_INTEGER_FAMILY = re.compile(
    r"(.+?)[\s,;]*(?:\\text\{[^{}]*\})?[\s,;]*\(?\s*([A-Za-z])\s*\\in\s*\\math(?:bb|bf)\s*"
    r"(?:\{([A-Z])\}|([A-Z]))\s*\)?",
    re.DOTALL,
)


def split_top(text: str, separators: str = ",;") -> list[str]:
    """Split at separators outside brackets; half-open intervals such as [0,1) close with either bracket."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth = max(0, depth - 1)
        elif depth == 0 and character in separators:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def measure_depth(text: str) -> int:
    """Return how deep brackets nest."""
    depth = deepest = 0
    for character in text:
        depth += (character in OPENING) - (character in CLOSING)
        deepest = max(deepest, depth)
    return deepest


def is_one_group(text: str) -> bool:
    """The bracket that opens the text closes at its end: true of (1,2), false of (1+x)(2,3)."""
    depth = 0
    for position, character in enumerate(text.strip()):
        depth += (character in OPENING) - (character in CLOSING)
        if depth == 0:
            return position == len(text.strip()) - 1
    return False


def read_elements(text: str) -> list[str]:
    r"""Return the elements of a set or a bare list, each once; `\pm` counts as two elements."""
    text = _JOINING.sub(",", text)
    inner = re.fullmatch(r"\\(?:\{|lbrace)(.*)\\(?:\}|rbrace)", text.strip(), re.DOTALL)
    if inner and "\\}" not in inner[1]:
        text = inner[1]
    parts: list[str] = []
    for part in split_top(text.replace("\\{", "{").replace("\\}", "}") if not inner else text):
        variants = [part.replace("\\pm", "+"), part.replace("\\pm", "-")] if part.count("\\pm") == 1 else [part]
        parts.extend(variants)
    return list(dict.fromkeys(parts)) or [text]


def read_brackets(text: str) -> tuple[str, list[str]] | None:
    """Return the brackets and the elements of a tuple or an interval; None for anything else."""
    match = re.fullmatch(r"([(\[])(.*)([)\]])", text.strip(), re.DOTALL)
    parts = split_top(match[2]) if match and is_one_group(text) else []
    return (match[1] + match[3], parts) if match and parts else None


def read_assignment(text: str) -> tuple[str | None, str]:
    """Return the name and the last value of an assignment; (None, text) for anything else."""
    if len(split_top(text)) > 1 or RELATION.search(text) or _JOINING.search(text):
        return None, text
    match = _ASSIGNMENT.fullmatch(text)
    if match is None:
        return None, text
    return match[1], re.split(r"=|\\approx\b", match[2])[-1].strip()


def read_alternatives(text: str) -> tuple[str, str] | None:
    """Return the name and the list of its values for `x = 4 or x = -1` and `x = 4, -1`; None for anything else."""
    assignments = [read_assignment(element) for element in read_elements(text)]
    name = assignments[0][0]
    if len(assignments) < 2 or name is None or any(other not in (name, None) for other, _ in assignments):
        return None
    return name, ", ".join(value for _, value in assignments)


def read_system(text: str) -> dict[str, str] | None:
    """Return name → value for `x = 3, y = -2` and `(x, y) = (3, -2)`, two or more names; None for anything else."""
    name, value = read_assignment(text)
    names, values = read_brackets(name or ""), read_brackets(value)
    if names and values and len(names[1]) == len(values[1]) > 1:
        return dict(zip(names[1], values[1], strict=True))
    assignments = [read_assignment(element) for element in read_elements(text)]
    system = {name.replace(" ", ""): value for name, value in assignments if name is not None}
    return system if len(assignments) == len(system) > 1 else None


def order_system(system: dict[str, str]) -> list[str]:
    """Return the values as a tuple would list them: x before y before z, other names as written."""
    names = sorted(system) if set(system) <= {"x", "y", "z"} else list(system)
    return [system[name] for name in names]


def is_indexed(system: dict[str, str]) -> bool:
    """The names are indices of one letter (x_1, x_2), which state no order."""
    return len({name.partition("_")[0] for name in system}) == 1


def read_vector(text: str) -> list[str] | None:
    """Return the entries of a matrix with one row or one column; None for anything else."""
    match = _VECTOR.fullmatch(text.strip())
    if match is None or ("&" in match[2] and "\\\\" in match[2].strip().rstrip("\\")):
        return None
    return [entry.strip() for entry in re.split(r"&|\\\\", match[2]) if entry.strip()]


def strip_point_name(text: str) -> str:
    """Return `(3,4)` for `P(3,4)`."""
    match = _POINT.fullmatch(text.strip())
    return match[1] if match and is_one_group(match[1]) else text


def read_family(text: str) -> tuple[str, str] | None:
    r"""Return (expression in the parameter k, set) for `n\pi, n \in \mathbb{Z}`; None for anything else."""
    match = _INTEGER_FAMILY.fullmatch(text.strip())
    if match is None:
        return None
    expression = re.sub(rf"(?<![\\A-Za-z]){match[2]}(?![A-Za-z])", "k", match[1].strip().rstrip(","))
    return expression, match[3] or match[4]
