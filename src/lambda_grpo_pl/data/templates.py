"""Prompt templates as data: what the policy reads around a question, and where it stops.

A score without its template means nothing (a base model's GSM8K accuracy changes by tens of points with it), so
templates have names, the names are printed beside every score, and adding one is one line in `TEMPLATES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from lambda_grpo_pl.data.columns import Message
from lambda_grpo_pl.data.markers import Markers
from lambda_grpo_pl.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLOT = "{question}"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, kw_only=True)
class Template:
    """The text around a question; `{question}` marks its place and every other brace is literal (`\\boxed{}`)."""

    text: str
    """The prompt, or the user's message where `chat` is set."""
    name: str = "custom"
    """What is printed beside each score."""
    system: str = ""
    """The system message where `chat` is set; empty sends none."""
    chat: bool = False
    """Wrap `text` in the tokenizer's chat template, up to and including the assistant's header."""
    stop: tuple[str, ...] = ()
    """Strings that end a response, like the end-of-sequence token: without them base models ask the next question."""

    def __post_init__(self) -> None:
        if SLOT not in self.text:
            raise UserError(f"Template {self.name!r} does not contain the question: put {SLOT} into its text.")
        if self.system and not self.chat:
            raise UserError(
                f"Template {self.name!r} has a system message but chat is false: set chat to true, or write the system "
                "message into the text."
            )
        object.__setattr__(self, "stop", tuple(self.stop))  # YAML gives a list

    @property
    def label(self) -> str:
        """The name of a registered template, or the text of any other."""
        return self.text if self.name == "custom" else self.name


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


def find_template(template: str | Template, key: str = "template") -> Template:
    """Return a template by name; a text that contains `{question}` is a template too.

    Raises `UserError` with the configuration `key` that lists the known names.
    """
    if isinstance(template, Template):
        return template
    if template in TEMPLATES:
        return TEMPLATES[template]
    if SLOT in template:
        return Template(text=template)
    raise UserError(
        f"{key} is {template!r}, which is not a template: use {', '.join(TEMPLATES)}, or a text that contains {SLOT}."
    )


def render(
    template: str | Template, question: str | list[Message], tokenizer: PreTrainedTokenizerBase | None = None
) -> str:
    """Return the prompt as sent to the policy; only chat templates use the tokenizer.

    A question that is chat messages already has its instructions: its template is `chat`. Raises `UserError` for any
    other, and when the tokenizer has no chat template.
    """
    template = find_template(template)
    if isinstance(question, str):
        text = template.text.replace(SLOT, question)
        if not template.chat:
            return text
        messages = [{"role": "system", "content": template.system}] if template.system else []
        messages.append({"role": "user", "content": text})
    elif not template.chat or template.system or template.text != SLOT:
        raise UserError(
            f"The questions are chat messages, which template {template.label!r} cannot wrap: set template to chat, or "
            "question_column to one message's text, such as prompt.0.content."
        )
    else:
        messages = question
    if tokenizer is None or not tokenizer.chat_template:
        raise UserError(
            f"Template {template.label!r} uses the tokenizer's chat template, but this tokenizer has none: choose "
            "'plain' or 'qwen_boxed', or a model whose tokenizer has one."
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"The tokenizer's chat template refuses messages of the roles {roles} ({error}): choose a template that "
            "sends no system message, such as 'chat'."
        ) from error


def encode(
    template: str | Template, question: str | list[Message], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[int]]:
    """Return the prompt's text and its token ids: exactly what the policy reads.

    Chat templates write the special tokens themselves, so none is added to them (a doubled begin-of-sequence token is a
    silent loss of accuracy). Control tokens in the question are read as text.
    """
    template = find_template(template)
    markers = Markers(tokenizer)
    contents = [question] if isinstance(question, str) else [message["content"] for message in question]
    if any(map(markers.occur_in, contents)):
        hidden = markers.hide(question) if isinstance(question, str) else [_hide(each, markers) for each in question]
        prompt = render(template, hidden, tokenizer)
        return markers.show(prompt), markers.encode(prompt, begin=not template.chat)
    prompt = render(template, question, tokenizer)
    ids: list[int] = tokenizer(prompt, add_special_tokens=not template.chat)["input_ids"]
    return prompt, ids


def _hide(message: Message, markers: Markers) -> Message:
    return {**message, "content": markers.hide(message["content"])}
