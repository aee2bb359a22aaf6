"""A character tokenizer as a real Hugging Face tokenizer: transformers and vLLM load its folder like any other.

Every printable ASCII character and the line break is one token, and so is the answer marker `####`; anything else
becomes `<unk>`. There is no beginning-of-sequence token, as in Qwen2.
"""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lambda_grpo_pl.builtin.arithmetic import MARKER

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
VOCABULARY = [PAD, EOS, UNKNOWN, MARKER, "\n", *sorted(string.digits + string.ascii_letters + string.punctuation + " ")]


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: pad is token 0, end of sequence 1; `decode(encode(text)) == text` for ASCII text."""
    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{MARKER}|[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
