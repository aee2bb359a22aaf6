"""Templates put the question, and nothing else, into the text that is sent."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lambda_grpo_pl.data.templates import TEMPLATES, Template, encode, find_template, render

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
CHAT = TURNS + "{% if add_generation_prompt %}[assistant]{% endif %}"


@pytest.fixture
def tokenizer():
    """A word tokenizer that prepends <s> to whatever it encodes, as Llama's does."""
    words = {word: index for index, word in enumerate(["<s>", "<unk>", "what", "now"])}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    fast.chat_template = "<s> {% for m in messages %}{{ m.content }} {% endfor %}"
    return fast


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if not template.chat])
def test_question_appears_once_and_braces_survive(name):
    question = r"What is $\frac{1}{2}$ of {question} and {0}?"
    text = render(name, question)
    assert text.count(question) == 1
    assert text == TEMPLATES[name].text.split("{question}")[0] + question + TEMPLATES[name].text.split("{question}")[1]


def test_plain_is_exact():
    assert render("plain", "1+1?") == "Question: 1+1?\nAnswer:"


def test_qwen_boxed_opens_the_assistants_turn_and_asks_for_a_box():
    text = render("qwen_boxed", "1+1?")
    assert text.endswith("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n")
    assert r"\boxed{}" in text


def test_chat_sends_system_and_user_through_the_tokenizers_template(tokenizer):
    tokenizer.chat_template = CHAT
    assert render("chat", "1+1?", tokenizer) == "[user]1+1?[assistant]"
    assert render("chat_boxed", "1+1?", tokenizer).startswith("[system]Please reason")


def test_chat_without_a_chat_template_says_what_to_choose(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="choose 'plain'"):
        render("chat", "1+1?", tokenizer)
    with pytest.raises(ValueError, match="has none"):
        render("chat", "1+1?")


def test_chat_prompts_carry_one_begin_of_sequence_token(tokenizer):
    assert encode("none", "what now", tokenizer)[1] == [0, 2, 3]
    assert encode("chat", "what now", tokenizer)[1] == [0, 2, 3]


def test_a_text_with_the_slot_is_a_template():
    assert render("Q: {question} A:", "hi") == "Q: hi A:"
    assert find_template("Q: {question}").name == "custom"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="plain, plain_boxed"):
        find_template("plian")


def test_template_without_question_or_with_lost_system_is_refused():
    with pytest.raises(ValueError, match="does not contain the question"):
        Template(name="x", text="Answer:")
    with pytest.raises(ValueError, match="chat is false"):
        Template(name="x", text="{question}", system="Be brief.")
