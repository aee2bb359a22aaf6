"""Prompt templates as data: what the policy reads around a question, and where it stops.

A score without its template means nothing (a base model's GSM8K accuracy moves by tens of points with it), so templates
have names, the names are printed beside every score, and adding one is one line in `TEMPLATES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{question}"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, kw_only=True)
class Template:
    """The text around a question; `{question}` marks its place and every other brace is literal (`\\boxed{}`)."""

    name: str
    """What is printed beside each score."""
    text: str
    """The prompt, or the user's message where `chat` is set."""
    system: str = ""
    """The system message where `chat` is set; empty sends none."""
    chat: bool = False
    """Wrap `text` in the tokenizer's own chat template, up to and including the assistant's header."""
    stop: tuple[str, ...] = ()
    """Strings that end a response, beside the end-of-sequence token: without them base models ask the next question."""

    def __post_init__(self) -> None:
        if SLOT not in self.text:
            raise ValueError(f"Template {self.name!r} never shows the question: put {SLOT} into its text.")
        if self.system and not self.chat:
            raise ValueError(f"Template {self.name!r} has a system message but chat=False: write it into the text.")


QWEN_TEXT = f"<|im_start|>system\n{BOXED}<|im_end|>\n<|im_start|>user\n{SLOT}<|im_end|>\n<|im_start|>assistant\n"
R1_TEXT = (
    "The user asks a question and the assistant solves it. The assistant first reasons inside <think> </think> and "
    f"then gives the final answer inside <answer> </answer>.\nUser: {SLOT}\nAssistant:"
)

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(name="none", text=SLOT),
        Template(name="plain", text=f"Question: {SLOT}\nAnswer:", stop=("\nQuestion:",)),
        Template(name="plain_boxed", text=f"Question: {SLOT}\n{BOXED}\nAnswer:", stop=("\nQuestion:",)),
        Template(name="qwen_boxed", text=QWEN_TEXT, stop=("<|im_end|>",)),
        Template(name="chat", text=SLOT, chat=True),
        Template(name="chat_boxed", text=SLOT, system=BOXED, chat=True),
        Template(name="r1", text=R1_TEXT, stop=("\nUser:",)),
        Template(name="summarize", text=f"Article: {SLOT}\nSummary:", stop=("\nArticle:",)),
        Template(name="translate_de_en", text=f"German: {SLOT}\nEnglish:", stop=("\n",)),
        Template(name="translate_en_de", text=f"English: {SLOT}\nGerman:", stop=("\n",)),
    )
}


def find_template(template: str | Template) -> Template:
    """Return a template by name; a text that holds `{question}` is a template of its own.

    Raises `ValueError` that lists the known names.
    """
    if isinstance(template, Template):
        return template
    if template in TEMPLATES:
        return TEMPLATES[template]
    if SLOT in template:
        return Template(name="custom", text=template)
    raise ValueError(f"No template {template!r}: use one of {', '.join(TEMPLATES)}, or a text that holds {SLOT}.")


def render(template: str | Template, question: str, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """Return the prompt as sent to the policy; the tokenizer is read only by chat templates.

    Raises `ValueError` when a chat template is asked for and the tokenizer has none.
    """
    template = find_template(template)
    text = template.text.replace(SLOT, question)
    if not template.chat:
        return text
    if tokenizer is None or not tokenizer.chat_template:
        raise ValueError(
            f"Template {template.name!r} wraps prompts in the tokenizer's chat template, and this tokenizer has none: "
            "choose 'plain' or 'qwen_boxed', or a model whose tokenizer has one."
        )
    messages = [{"role": "system", "content": template.system}] if template.system else []
    messages.append({"role": "user", "content": text})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def encode(template: str | Template, question: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the prompt's token ids: exactly what the policy reads.

    Chat templates write the special tokens themselves, so none is added to them (a doubled begin-of-sequence token is a
    silent loss of accuracy).
    """
    template = find_template(template)
    ids: list[int] = tokenizer(render(template, question, tokenizer), add_special_tokens=not template.chat)["input_ids"]
    return ids
