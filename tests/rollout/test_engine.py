"""The engine samples what the seed says, decodes each response once, and scores what was sampled."""

from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.rewards import JudgingAhead, PoolConfig, RewardSpec, RewardSuite
from lambda_grpo_pl.rollout import policy_sampler, recovery, responses, scoring
from lambda_grpo_pl.rollout.engine import RolloutAhead
from lambda_grpo_pl.rollout.policy_sampler import PolicySampler, SamplerPlacement, eos_token_ids
from lambda_grpo_pl.rollout.run_context import sampling_seed, train_key
from lambda_grpo_pl.rollout.scoring import RewardSuites
from lambda_grpo_pl.sampling import SamplingSettings, SyncError, VllmSettings
from tests.rollout.fakes import (
    TOKENIZER,
    InstantProcess,
    OneWeight,
    ScriptedSampler,
    encode,
    make_engine,
    make_prompts,
)

TEXTS = ("4STOP9", "5", "6", "7STOP")
PROMPTS = make_prompts("4", "7")


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of responses in each call that decodes some."""
    numbers: list[int] = []

    def counting(tokenizer, completions, stops=()):  # type: ignore[no-untyped-def]
        numbers.append(len(completions.lengths))
        return responses.read_responses(tokenizer, completions, stops)

    monkeypatch.setattr(scoring, "read_responses", counting)
    return numbers


@pytest.fixture
def num_judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of responses in each call of the pool's rewards."""
    numbers: list[int] = []
    judge = RewardSuite.judge

    def counting(self, completions, *rest):  # type: ignore[no-untyped-def]
        numbers.append(len(completions))
        return judge(self, completions, *rest)

    monkeypatch.setattr(RewardSuite, "judge", counting)
    return numbers


def test_seeds_are_a_function_of_run_occasion_and_rank():
    """The first three are what earlier versions drew: their runs resume to the same samples."""
    assert sampling_seed(0, ("train", 0), 0) == 2389235869
    assert sampling_seed(7, ("replacement", 3, 1), 1) == 331805359
    assert sampling_seed(7, ("evaluation", "gsm8k", 2), 0) == 4179873049
    others = [(0, ("train", 1), 0), (1, ("train", 0), 0), (0, ("train", 0), 1), (0, ("heldout", 0), 0)]
    assert len({sampling_seed(*each) for each in others} | {2389235869}) == 5
    sampler = ScriptedSampler(*TEXTS)
    make_engine(sampler).sample(PROMPTS, train_key(5))
    assert sampler.calls[0][1] == sampling_seed(3, ("train", 5), 1)


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, (1,)), (1, (1,)), (9, (1, 9)), ([8, 1, 9], (1, 8, 9)), ((8,), (1, 8))]
)
def test_all_end_tokens_of_tokenizer_and_generation_config_end_a_response(configured, expected):
    assert TOKENIZER.eos_token_id == 1
    assert eos_token_ids(TOKENIZER, OneWeight(eos=configured).causal_lm) == expected


def test_a_model_without_generation_config_ends_at_the_tokenizers_token():
    assert eos_token_ids(TOKENIZER, object()) == (1,)
    no_end = type("Tokenizer", (), {"eos_token_id": None})()
    assert eos_token_ids(no_end, OneWeight(eos=[4]).causal_lm) == (4,)


def test_a_sync_happens_once_per_version_and_is_proven():
    sampler, policy = ScriptedSampler(*TEXTS), OneWeight(-1.0)
    engine = make_engine(sampler, synced=False)
    assert not engine.sampler.has(0)
    assert engine.sync(policy, version=0) == 0.0
    assert engine.sync(policy, version=0) is None
    assert (sampler.num_syncs, engine.sampler.version) == (1, 0)
    torch.nn.init.constant_(policy.model.weight, -2.0)
    policy.gap = 5e-4
    assert engine.sync(policy, version=1) == pytest.approx(5e-4)
    assert (sampler.num_syncs, engine.sampler.version, sampler.weight) == (2, 1, -2.0)


def test_a_failed_proof_leaves_the_old_version():
    sampler, policy = ScriptedSampler(*TEXTS), OneWeight()
    engine = make_engine(sampler)
    policy.gap = 2e-3
    with pytest.raises(SyncError, match=r"0\.002 nats"):
        engine.sync(policy, version=1)
    assert engine.sampler.version == 0


@pytest.mark.parametrize(("name", "engine_dtype"), [("transformers", torch.bfloat16), ("vllm", torch.float16)])
def test_the_proof_fits_the_types_and_the_engines_context_and_a_window_is_proven_once(monkeypatch, name, engine_dtype):
    """Transformers computes in the trainer's type, vLLM in its own; a window works alike with all weights."""
    engine, planned = make_engine(ScriptedSampler()), []
    monkeypatch.setattr(policy_sampler, "plan_probe", lambda **fields: planned.append(fields) or ())
    monkeypatch.setattr(recovery, "check_sync", lambda *_: 0.25)
    monkeypatch.setattr(policy_sampler, "context_switch", lambda config: config.window)
    monkeypatch.setattr(policy_sampler, "uses_vllm", lambda name: name == "vllm")
    policy = OneWeight()
    policy.causal_lm.config = SimpleNamespace(max_position_embeddings=512, window=7)
    run = replace(engine.run, trainer_dtype=torch.bfloat16, context_length=100)
    sampler = PolicySampler(run, name, VllmSettings(dtype="float16"), ScriptedSampler())
    assert [sampler.sync(policy, version) for version in (0, 1)] == [0.25, 0.25]
    first = {
        "vocab_size": len(TOKENIZER),
        "engine_dtype": engine_dtype,
        "trainer_dtype": torch.bfloat16,
        "max_length": 99,
        "window": 7,
        "tolerance": 1e-3,
    }
    assert planned == [first, first | {"window": None}]
    policy.causal_lm.config.max_position_embeddings = 50
    sampler.sync(policy, 2)
    del policy.causal_lm.config.max_position_embeddings
    PolicySampler(engine.run, name, VllmSettings(), ScriptedSampler()).sync(policy, 0)
    assert [plan["max_length"] for plan in planned[2:]] == [49, 4095], "a model that does not say has 4096 positions"


def test_only_a_started_sampler_sleeps():
    sampler = ScriptedSampler()
    engine = make_engine(sampler)
    engine.sampler.sleep()
    assert sampler.num_sleeps == 1
    engine.close()
    engine.sampler.sleep()
    assert sampler.num_sleeps == 1


def test_the_sampler_is_built_from_policy_and_tokenizer(monkeypatch):
    built = []

    class Builder:
        def __init__(self, **fields):
            self.fields = fields

        def build(self):
            built.append((self.fields, None))
            return ScriptedSampler()

    def process(builder, num_threads, device, timeout_s):
        built.append((builder.fields, (num_threads, device)))
        return ScriptedSampler()

    monkeypatch.setattr(policy_sampler, "SamplerBuilder", Builder)
    monkeypatch.setattr(policy_sampler, "SamplerProcess", process)
    policy = OneWeight(eos=[5])
    policy.causal_lm.config = "the policy's"
    monkeypatch.setattr(policy_sampler, "runs_remote_code", lambda model: model is policy.causal_lm)
    run = replace(make_engine(ScriptedSampler()).run, context_length=77)
    for placement in (None, SamplerPlacement(2, 1)):
        sampler = PolicySampler(run, "transformers")
        sampler.placement = placement
        sampler.sync(policy, version=4)
        assert sampler.has(4)
    (fields, in_process), (same, separate) = built
    assert (in_process, separate) == (None, (2, 1))
    assert fields == same
    assert (fields["name"], fields["config"], fields["eos_token_ids"]) == ("transformers", "the policy's", (1, 5))
    assert (fields["pad_token_id"], fields["adapters"]) == (TOKENIZER.pad_token_id, None)
    assert (fields["context_length"], fields["trust_remote_code"]) == (77, True)
    assert not fields["engine"].lora_adapters


def test_what_samples_is_described_without_starting_it(monkeypatch):
    run, policy = make_engine(ScriptedSampler()).run, OneWeight()
    monkeypatch.setattr(policy_sampler, "installed_vllm", lambda: "0.32")
    monkeypatch.setattr(policy_sampler, "uses_vllm", lambda name: name == "vllm")
    settings = VllmSettings(dtype="float16")
    assert PolicySampler(run, "vllm", settings).describe(policy) == ("vllm", "0.32", "float16")
    monkeypatch.setattr(policy_sampler, "installed_vllm", lambda: None)
    assert PolicySampler(run, "vllm", settings).describe(policy).engine_version == ""
    policy.model.bfloat16()
    own = ("transformers", metadata.version("transformers"), "bfloat16")
    assert PolicySampler(run, "transformers", settings).describe(policy) == own


def test_before_the_first_sync_nothing_samples():
    engine = make_engine(ScriptedSampler(), synced=False)
    with pytest.raises(AssertionError, match="sync first"):
        engine.sampler.version  # noqa: B018
    engine.sampler.release()
    with pytest.raises(AssertionError, match="sync first"):
        engine.sample(PROMPTS, train_key(0))


def test_plain_samples_end_at_the_stop_strings_and_are_not_judged(num_judged):
    sampler = ScriptedSampler(*TEXTS)
    completions = make_engine(sampler, stops=("STOP", "\n"), name="math").sample(PROMPTS, train_key(0))
    assert completions.lengths.tolist() == [5, 1, 1, 5]
    assert completions.truncated.tolist() == [False, True, True, False]
    assert num_judged == []
    settings = sampler.calls[0][0]
    assert (settings.num_samples, settings.max_tokens) == (2, 16)
    assert [TOKENIZER.decode([token]) for token in settings.stop_token_ids] == ["\n"]


def test_samples_without_stop_strings_are_not_decoded(monkeypatch):
    monkeypatch.setattr("lambda_grpo_pl.rollout.engine.read_responses", lambda *_: pytest.fail("decoded"))
    completions = make_engine(ScriptedSampler(*TEXTS)).sample(PROMPTS, train_key(0))
    assert completions.lengths.tolist() == [6, 1, 1, 5]


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("stops", [("STOP",), ()])
def test_each_response_is_decoded_once_between_stops_verdicts_and_scores(num_read, tells, stops):
    sampler = ScriptedSampler(*TEXTS, tells=tells)
    engine = make_engine(sampler, stops=stops)
    batch = RolloutBatch(PROMPTS, index=2)
    assert engine.sample_batch(batch) == 0
    assert sampler.calls == [(engine.sampling, sampling_seed(3, ("train", 2), 1))]
    scores = engine.score(batch, train_key(2))
    assert sum(num_read) == 4
    assert scores.parts["is_gold"] == ([1.0, 0.0, 0.0, 1.0] if stops else [0.0] * 4)
    assert batch.scored().total.tolist() == scores.totals
    assert batch.sampled().lengths.tolist() == ([5, 1, 1, 5] if stops else [6, 1, 1, 5])


def test_groups_are_judged_while_others_are_sampled(num_judged):
    engine = make_engine(ScriptedSampler("####4", "####4", "####6", "####7"), name="math")
    batch = RolloutBatch(PROMPTS)
    batch.completions = engine.sample_training(PROMPTS, ("replacement", 0))
    scores = engine.score(batch, ("replacement", 0))
    assert sum(num_judged) == 4  # `score` judged none of them again
    assert [verdict.correct for verdict in scores.verdicts] == [True, True, False, True]
    engine.close()


def test_rewards_are_told_what_a_stop_string_made_of_lengths_and_truncation(monkeypatch):
    told = []
    add, score = JudgingAhead.add, RewardSuite.score

    def adding(self, first, texts, examples, lengths, truncated):
        told.append((first, lengths, truncated))
        add(self, first, texts, examples, lengths, truncated)

    def scoring_all(self, texts, examples, lengths, truncated, *rest):
        told.append((lengths, truncated))
        return score(self, texts, examples, lengths, truncated, *rest)

    monkeypatch.setattr(JudgingAhead, "add", adding)
    monkeypatch.setattr(RewardSuite, "score", scoring_all)
    make_engine(ScriptedSampler(*TEXTS), stops=("STOP",)).roll_out(PROMPTS, ("heldout", 0))
    whole = ([5, 1, 1, 5], [False, True, True, False])
    assert told == [(2, [1, 5], [True, False]), (0, [5, 1], [False, True]), whole]


def test_completions_from_elsewhere_are_read_and_scored():
    engine = make_engine(ScriptedSampler(*TEXTS), stops=("STOP",))
    batch = RolloutBatch(PROMPTS, completions=encode("1", "4STOP", "7", "7"))
    assert engine.score(batch, train_key(0)).totals == [0.0, 1.0, 1.0, 1.0]
    batch.completions = encode("1", "4", "4", "7", "7", "4")  # three responses to each prompt
    assert engine.score(batch, train_key(0)).totals == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_verdicts_are_collected_once():
    engine = make_engine(ScriptedSampler("4", "5", "6", "7"))
    batch = engine.roll_out(PROMPTS, ("heldout", 0))
    assert batch.scored().total.tolist() == [1.0, 0.0, 0.0, 1.0]
    batch.completions = encode("4", "4", "4", "4")
    assert engine.score(batch, ("heldout", 0)).totals == [1.0, 1.0, 0.0, 0.0]


def test_a_rollout_begun_ahead_is_what_its_step_would_have_sampled(num_read):
    sampler = InstantProcess(*TEXTS)
    engine = make_engine(sampler, stops=("STOP",))
    batch = RolloutBatch(PROMPTS, index=6)
    begun = engine.begin(batch)
    assert (engine.has_begun(6), engine.has_begun(5), begun.version) == (True, False, 0)
    assert begun.completions.result().lengths.tolist() == [6, 1, 1, 5]
    assert sampler.calls == [(engine.sampling, sampling_seed(3, ("train", 6), 1))]
    engine.sync(OneWeight(-2.0), version=1)
    assert engine.sample_batch(batch) == 0  # the version that sampled it
    assert len(sampler.calls) == 1
    assert batch.sampled().lengths.tolist() == [5, 1, 1, 5]
    assert engine.score(batch, train_key(6)).totals == [1.0, 0.0, 0.0, 1.0]
    assert sum(num_read) == 4
    assert not engine.has_begun(6)
    assert engine.sample_batch(batch) == 1


def test_only_a_separate_process_samples_ahead():
    with pytest.raises(AssertionError, match=r"sampler\.placement"):
        make_engine(ScriptedSampler(*TEXTS)).begin(RolloutBatch(PROMPTS))


def test_a_restored_rollout_is_read_and_scored_like_a_new_one(num_read):
    engine = make_engine(InstantProcess(*TEXTS), stops=("STOP",))
    begun = engine.begin(RolloutBatch(PROMPTS, index=1))
    resumed = make_engine(InstantProcess("9", "9", "9", "9"), stops=("STOP",))
    resumed.restore_ahead({1: RolloutAhead(begun.completions, version=7)})
    batch = RolloutBatch(PROMPTS, index=1)
    num_read.clear()
    assert resumed.sample_batch(batch) == 7
    assert batch.sampled().lengths.tolist() == [5, 1, 1, 5]
    assert resumed.score(batch, train_key(1)).totals == [1.0, 0.0, 0.0, 1.0]
    assert num_read == [4]


def has_bang(completion, example):
    return "!" in completion


def test_an_evaluation_has_its_own_sampling_stops_and_rewards(num_read, monkeypatch):
    sampler = ScriptedSampler("4!", "5", "6", "7!")
    engine = make_engine(sampler, stops=("STOP",))
    settings = SamplingSettings(temperature=0.5, num_samples=2)
    judged_ahead = []
    monkeypatch.setattr(JudgingAhead, "add", lambda self, first, *_: judged_ahead.append(first))
    monkeypatch.setattr(JudgingAhead, "finish", lambda self: None)
    scored = engine.answer(PROMPTS, ("evaluation", "a", 0), settings, ("!",), [])
    assert sampler.calls[0] == (
        SamplingSettings(temperature=0.5, num_samples=2, stop_token_ids=(*TOKENIZER("!")["input_ids"],)),
        sampling_seed(3, ("evaluation", "a", 0), 1),
    )
    assert scored.responses.texts == ["4", "5", "6", "7"]
    assert scored.completions.truncated.tolist() == [False, True, True, False]
    assert scored.scores.totals == [1.0, 0.0, 0.0, 1.0]
    assert sum(num_read) == 4
    assert judged_ahead == [2, 0]
    other = engine.answer(
        PROMPTS, ("evaluation", "b", 0), settings, (), [RewardSpec(name=f"{__name__}.has_bang", weight=2.0)]
    )
    assert other.scores.totals == [2.0, 0.0, 0.0, 2.0]


def test_equal_lists_of_rewards_share_their_processes(monkeypatch):
    training = RewardSuite([RewardSpec(name="numeric")])
    suites = RewardSuites(training, PoolConfig(num_workers=1))
    assert suites.find([]) is training
    first = suites.find([RewardSpec(name="math")])
    assert suites.find([RewardSpec(name="math")]) is first
    assert suites.find((RewardSpec(name="math"),)) is first
    assert suites.find([RewardSpec(name="math", weight=2.0)]) is not first
    pools = []
    monkeypatch.setattr(scoring, "RewardSuite", lambda specs, pool: pools.append(pool))
    suites.find([RewardSpec(name="math", weight=3.0)])
    assert pools == [PoolConfig(num_workers=1)]


def test_closing_frees_the_sampler_stops_all_processes_and_forgets_what_was_begun(monkeypatch):
    closed = []
    monkeypatch.setattr(RewardSuite, "close", lambda self: closed.append(self))
    sampler = InstantProcess(*TEXTS)
    engine = make_engine(sampler)
    other = engine.suites.find([RewardSpec(name="math")])
    engine.begin(RolloutBatch(PROMPTS, index=1))
    engine.close()
    assert sampler.is_closed
    assert closed == [engine.suites.training, other]
    assert not engine.has_begun(1)
    assert not engine.sampler.has(0)
    batch = RolloutBatch(PROMPTS, index=1, completions=encode("4", "4", "7", "7"))
    assert engine.score(batch, train_key(1)).totals == [1.0, 1.0, 1.0, 1.0]  # not the verdicts on what was begun
    engine.close()  # twice does no harm
    assert closed == [engine.suites.training, other, engine.suites.training]


def test_a_released_sampler_stays_open():
    sampler = ScriptedSampler(*TEXTS)
    engine = make_engine(sampler)
    assert engine.sampler.release() is sampler
    engine.close()
    assert not sampler.is_closed
