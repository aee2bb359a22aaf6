"""A response ends at the first stop string, wherever its tokens lie."""

from lambda_grpo_pl.rollout.responses import apply_stops, decode_response, read_responses, with_stops
from lambda_grpo_pl.sampling import SamplingSettings
from tests.rollout.fakes import TOKENIZER, encode


def test_the_first_stop_string_ends_a_response():
    texts, lengths, truncated = read_responses(TOKENIZER, encode("4STOP5END6", "7END8STOP", "9"), ["END", "STOP"])
    assert texts == ["4", "7", "9"]
    assert lengths == [5, 4, 1]
    assert truncated == [False, False, True]


def test_of_stops_that_overlap_the_one_that_begins_first_cuts_the_text():
    texts, lengths, _ = read_responses(TOKENIZER, encode("12STOP"), ["OP", "STOP", "TOP"])
    assert (texts, lengths) == (["12"], [6])


def test_a_stop_string_is_encoded_without_what_starts_a_text():
    class WithStart:
        """Puts a start-of-text token before every text, as Llama's tokenizers do, unless told otherwise."""

        decode = TOKENIZER.decode

        def __call__(self, text, *, add_special_tokens=True):
            return {"input_ids": [2] * add_special_tokens + TOKENIZER(text)["input_ids"]}

    ends = with_stops(SamplingSettings(), WithStart(), ["\n"]).stop_token_ids
    assert list(ends) == TOKENIZER("\n")["input_ids"]


def test_a_stop_string_that_the_tokenizer_does_not_know_ends_no_sampling():
    """Its one token stands for anything unknown."""

    class Unknown:
        decode = TOKENIZER.decode

        def __call__(self, text, *, add_special_tokens=True):
            return {"input_ids": TOKENIZER("<unk>")["input_ids"][:1]}

    assert with_stops(SamplingSettings(), Unknown(), ["☃"]).stop_token_ids == ()


def test_special_tokens_are_not_part_of_the_text():
    assert read_responses(TOKENIZER, encode("12<eos>")) == (["12"], [3], [True])


def test_a_stop_at_the_very_end_and_one_that_is_all_there_is():
    texts, lengths, truncated = read_responses(TOKENIZER, encode("12STOP", "STOP"), ["STOP"])
    assert (texts, lengths, truncated) == (["12", ""], [6, 4], [False, False])


def test_a_special_token_may_end_a_response_and_is_not_read():
    texts, lengths, _ = read_responses(TOKENIZER, encode("12<eos>34"), ["<eos>"])
    assert (texts, lengths) == (["12"], [3])


def test_without_stops_a_response_is_whole():
    given = encode("1 Question: 2", truncated=False)
    responses = read_responses(TOKENIZER, given)
    assert responses == (["1 Question: 2"], [13], [False])
    assert apply_stops(given, responses).lengths.tolist() == given.lengths.tolist()


def test_cutting_shortens_the_encode():
    given = encode("12STOP34")
    shorter = apply_stops(given, read_responses(TOKENIZER, given, ["STOP"]))
    assert TOKENIZER.decode(shorter.tokens(0)) == "12STOP"
    assert not shorter.truncated.any()


def test_stops_that_are_one_token_end_the_sampling_itself():
    settings = SamplingSettings(stop_token_ids=(7,))
    ends = with_stops(settings, TOKENIZER, ["\n", "STOP", "<eos>"]).stop_token_ids
    assert [TOKENIZER.decode([token]) for token in ends[1:]] == ["\n", "<eos>"]
    assert ends[0] == 7
    assert with_stops(settings, TOKENIZER, ["STOP"]) == settings


def test_half_of_a_surrogate_pair_becomes_a_character_that_a_file_can_hold():
    broken = type("Broken", (), {"decode": lambda self, ids, skip_special_tokens=False: "a\ud800b😀"})()
    assert decode_response(broken, [1]) == "a?b😀"
    assert read_responses(broken, encode("1")).texts == ["a?b😀"]
