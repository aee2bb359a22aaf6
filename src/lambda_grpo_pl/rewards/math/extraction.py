r"""Where the answer stands in a completion. Every scan here is linear in the text, for it runs inline.

The order, first hit wins (argued in docs/verifier.md):

1. after the last `</think>` only what follows counts; a `<think>` that never closes leaves nothing;
2. the last complete `\boxed{…}` or `\fbox{…}`, together with the boxes joined to it only by commas, "and", "or" or
   layout. A text with nothing but unclosed boxes has no answer;
3. the last `<answer>…</answer>`;
4. the last `#### X`;
5. the last "answer is X", "Answer: X", to the end of its sentence.

There is no last-number fallback: a completion that never says what its answer is has none.
"""

from __future__ import annotations

import re

FINAL_ANSWER = (
    r"what follows the last </think>: the last \boxed{…}, else the last <answer>…</answer>, else the last `####`, "
    'else the last "answer is …"'
)
"""Where `extract_answer` looks, in a sentence that is printed with every score."""
MAX_CHARS = 1 << 20
"""Of a longer completion only the last 2^20 characters are read."""

MAX_STATEMENT_CHARS = 4000
"""Of what follows "answer is" or `####`, at most this much is read."""

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_ANY_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_LAYOUT = re.compile(
    r"(?:\s|[,;&$~]|\\[\[\](),;:! ]|\\\\|\\q?quad\b|\band\b|\bor\b"
    r"|\\(?:text|mathrm|textnormal)\s*\{\s*,?\s*(?:and|or)\s*\})*"
)
_HASH = re.compile(r"####[ \t]*(?P<answer>[^\n]*)")
_VALUE = re.compile(r"[-+−–]?\s?[\d$€£¥\\({\[.√π]")
_CUE = re.compile(
    r"\banswers?\b\**[ \t]*(?:(?:is|are|was|be)\b[ \t]*:?|[:=]|(?=\$|\\\())|答案(?:是|为|：|:)", re.IGNORECASE
)
_HEADING = re.compile(r"^[#*_ \t]*final answer[*_: \t]*\n+(?=[ \t*]*(?:\$|\\\(|\\\[))", re.IGNORECASE | re.MULTILINE)
_HEDGE = re.compile(r"(?:approximately|about|roughly|around|exactly|simply|just)\s+(?=\S)", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>|</s>")
_SENTENCE_END = re.compile(r"\n|(?<!\\)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?。](?=\s|$)|\bI hope\b")
_MATH = re.compile(r"(?<!\\)\$\$?((?:\\.|[^$\n\\])+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_JOINING_TEXT = re.compile(r"\\(?:text|mathrm|textnormal|mbox)\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}")
_MATH_JOIN = re.compile(r"\s*(?:,|;|\band\b|\bor\b|,\s*and\b|,\s*or\b)\s*")
_PLAIN_WORD = re.compile(r"[A-Za-z]{2,}[,;:]?|a|I")


def extract_answer(completion: str) -> str | None:
    """Return the final answer's text as written, a list joined by ", ", or None if the completion states none."""
    text = _SPECIAL_TOKEN.sub("", completion[-MAX_CHARS:])
    _thought, closed, text = text.rpartition("</think>")
    if not closed and "<think>" in text:
        return None
    if _ANY_BOX.search(text):
        return _last_boxes(text)
    return _from_tag(text) or _from_hash(text) or _from_cue(text)


def boxed_spans(text: str) -> list[tuple[int, int]]:
    r"""Content spans [start, end) of the complete, outermost boxes in order; braces escaped as `\{` do not count."""
    spans: list[tuple[int, int]] = []
    open_braces: list[tuple[int, bool]] = []
    for token in _BOX_OR_BRACE.finditer(text):
        mark = token[0]
        if mark.endswith("{") and mark != "\\{":
            open_braces.append((token.end(), mark != "{"))
        elif mark == "}" and open_braces:
            start, is_box = open_braces.pop()
            if is_box:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, token.start()))
    return spans


def _last_boxes(text: str) -> str | None:
    spans = boxed_spans(text)
    if not spans:
        return None
    joined = [spans[-1]]
    for span in reversed(spans[:-1]):
        # The command in front of the later box belongs to it: `\boxed{` ends where its content starts.
        between = _ANY_BOX.split(text[span[1] + 1 : joined[-1][0]])[0]
        if not _LAYOUT.fullmatch(between):
            break
        joined.append(span)
    contents = [text[start:end].strip() for start, end in reversed(joined)]
    distinct = list(dict.fromkeys(contents))
    return ", ".join(distinct) if all(distinct) else None


def _from_tag(text: str) -> str | None:
    before, closed, _after = text.rpartition("</answer>")
    _start, opened, content = before.rpartition("<answer>")
    if not (closed and opened):
        return None
    return _from_cue(content) or _from_hash(content) or _unwrap(content) or None


def _from_hash(text: str) -> str | None:
    """The last `#### X`. A Markdown heading is none: X ends the text, or looks like a value."""
    for match in reversed(list(_HASH.finditer(text))):
        answer = match["answer"].strip(" #*")[:MAX_STATEMENT_CHARS]
        if answer and (_VALUE.match(answer) or not text[match.end() :].strip()):
            return _leading_value(answer)
    return None


def _from_cue(text: str) -> str | None:
    cues = [*_CUE.finditer(text), *_HEADING.finditer(text)]
    if not cues:
        return None
    sentence = text[max(cue.end() for cue in cues) :].lstrip(" \t\n*_:")
    sentence = sentence[:MAX_STATEMENT_CHARS]
    hedge = _HEDGE.match(sentence)
    sentence = sentence[hedge.end() :] if hedge else sentence
    math = _MATH.match(sentence)
    if math:
        return _math_list(sentence)
    end = _SENTENCE_END.search(sentence)
    return _leading_value(sentence[: end.start()] if end else sentence) or None


def _math_list(sentence: str) -> str:
    """The formulas that open the sentence, joined by commas, "and" or "or"."""
    values, position = [], 0
    while math := _MATH.match(sentence, position):
        values.append(next(group for group in math.groups() if group is not None).strip())
        join = _MATH_JOIN.match(sentence, math.end())
        if join is None:
            break
        position = join.end()
    return ", ".join(values)


def _leading_value(phrase: str) -> str:
    """Cut an explanation off: of "42 because 6 times 7 is 42" the value is 42; words alone stay as they are."""
    phrase = _unwrap(_JOINING_TEXT.sub(" and ", phrase))
    head, subject, tail = phrase.rpartition(" is ")
    if subject and not any(map(str.isdigit, _MATH.sub("", head))):
        phrase = _unwrap(tail)
    if _MATH.match(phrase):
        return _math_list(phrase)
    kept: list[str] = []
    has_digit, open_braces = False, 0
    for word in phrase.split():
        explains = _PLAIN_WORD.fullmatch(word) and word not in ("and", "or") and open_braces <= 0
        if explains and has_digit:
            break
        kept.append(word)
        has_digit = has_digit or any(map(str.isdigit, word))
        open_braces += word.count("{") - word.count("}")
    value = " ".join(kept)
    return re.sub(r",? (?:or|and) ", ", ", value) if has_digit else value


def _unwrap(text: str) -> str:
    """Strip space, emphasis and a formula's delimiters from around an answer."""
    text = text.strip().strip("*_` ").strip()
    math = _MATH.fullmatch(text.rstrip("."))
    return next(group for group in math.groups() if group is not None).strip() if math else text
