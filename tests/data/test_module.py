"""The data module under a real trainer: who reads which row, and what a resumed run reads next."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.data.batching import ValBatches, pad_prompts
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.prompts import EncodedPrompt, PromptRules
from lambda_grpo_pl.data.sources import PromptSource


class Recorder(L.LightningModule):
    """Trains nothing and remembers the questions it was given; like a policy, it draws further prompts in a step."""

    def __init__(self, kill_at: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.automatic_optimization = False
        self.kill_at = kill_at
        self.seen: list[tuple[int, tuple[str, ...], tuple[str, ...]]] = []

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> None:
        drawn = self.trainer.datamodule.draw(2, "replacement")
        if batch.index == self.kill_at:
            raise KeyboardInterrupt
        self.seen.append((batch.index, questions(batch.prompts), questions(drawn)))
        self.optimizers().step()

    def validation_step(self, batch: RolloutBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def questions(prompts) -> tuple[str, ...]:
    return tuple(example["question"] for example in prompts.examples)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def train_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}+1=", "answer": str(n + 1)}) + "\n" for n in range(10)))
    return str(path)


@pytest.fixture
def make(tokenizer_path: str, train_file: str):
    def build(streaming: bool = False, **settings: object) -> PromptDataModule:
        train = PromptSource(path=train_file, streaming=streaming, template="none")
        val = [PromptSource(split="test", limit=5), PromptSource(name="more", split="validation", limit=3)]
        return PromptDataModule(tokenizer_path, train, val, **{"batch_size": 4, "seed": 3, **settings})

    return build


def fit(folder: Path, data: PromptDataModule, steps: int, module: Recorder, resume: str | None = None, **settings):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        limit_val_batches=settings.pop("limit_val_batches", 0),
        **settings,
    )
    trainer.fit(module, data, ckpt_path=resume)
    return trainer, module.seen


def run(folder: Path, data: PromptDataModule, steps: int, **settings: object):
    return fit(folder, data, steps, Recorder(), **settings)[1]


def attach(data: PromptDataModule, rank: int, world_size: int) -> PromptDataModule:
    """Set the data module up as rank `rank` sees it."""

    class Place:
        global_rank, max_steps = rank, 5

    Place.world_size = world_size
    data.trainer = Place()
    data.setup("fit")
    return data


def test_batches_are_left_padded_numbered_and_cover_each_epoch(tmp_path, make) -> None:
    data = attach(make(), 0, 1)
    batch = data.train_batch(2)
    assert batch.index == 2
    assert batch.prompts.ids.shape == (4, int(batch.prompts.lengths.max()))
    for row, example in enumerate(batch.prompts.examples):
        assert data.tokenizer.decode(batch.prompts.tokens(row)) == example["prompt"] == example["question"]
    seen = run(tmp_path, make(), 5)
    assert [index for index, *_ in seen] == [0, 1, 2, 3, 4]
    stream = [question for _, asked, _ in seen for question in asked]
    assert sorted(stream[:10]) == sorted(stream[10:]) == sorted(f"{n}+1=" for n in range(10))
    assert stream[:10] != stream[10:]
    assert run(tmp_path, make(), 5) == seen
    assert run(tmp_path, make(seed=4), 5) != seen


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_reads_what_the_interrupted_one_would_have(tmp_path, make, streaming: bool, every: int) -> None:
    """Killed inside step 4, after its extra prompts were drawn: the run goes on after the last checkpoint."""
    whole = run(tmp_path / "whole", make(streaming), 9)
    keep = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=every, save_top_k=-1, filename="{step}")
    interrupted = Recorder(kill_at=4)
    with pytest.raises(SystemExit):  # Lightning turns a keyboard interrupt into an exit
        fit(tmp_path, make(streaming), 9, interrupted, callbacks=[keep])
    assert interrupted.seen == whole[:4]
    last = 3 if every == 3 else 4
    rest = run(tmp_path, make(streaming), 9, resume=str(tmp_path / "ckpt" / f"step={last}.ckpt"))
    assert rest == whole[last:]


def test_resuming_twice_and_after_validation_skips_nothing(tmp_path, make) -> None:
    whole = run(tmp_path / "whole", make(), 8)
    seen = []
    for steps, resume in ((3, None), (4, "3"), (8, "4")):
        trainer, part = fit(
            tmp_path, make(), steps, Recorder(), resume and str(tmp_path / resume), limit_val_batches=1.0
        )
        trainer.save_checkpoint(tmp_path / str(steps))
        seen += part
    assert seen == whole


def test_a_checkpoint_written_while_a_step_fails_repeats_that_step(tmp_path, make) -> None:
    whole = run(tmp_path / "whole", make(), 4)
    data = make()
    keep = ModelCheckpoint(tmp_path, save_on_exception=True, every_n_train_steps=100, filename="emergency")
    with pytest.raises(SystemExit):
        fit(tmp_path, data, 4, Recorder(kill_at=2), callbacks=[keep])
    (written,) = tmp_path.glob("*.ckpt")
    assert run(tmp_path, make(), 4, resume=str(written)) == whole[2:]


def test_another_plan_cannot_resume(tmp_path, make) -> None:
    trainer, _ = fit(tmp_path, make(), 2, Recorder())
    trainer.save_checkpoint(tmp_path / "c")
    with pytest.raises(ValueError, match=r"data\.batch_size 4, but this run has 2"):
        run(tmp_path, make(batch_size=2), 4, resume=str(tmp_path / "c"))


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
def test_ranks_together_read_what_one_rank_reads(make, streaming: bool) -> None:
    alone = attach(make(streaming), 0, 1)
    ranks = [attach(make(streaming), rank, 2) for rank in (0, 1)]
    for index in (0, 1, 4):
        parts = [questions(data.train_batch(index).prompts) for data in ranks]
        assert parts[0] + parts[1] == questions(alone.train_batch(index).prompts)
    for _ in range(2):
        drawn = [questions(data.draw(3, "replacement")) for data in ranks]
        assert drawn[0] + drawn[1] == questions(alone.draw(6, "replacement"))


def test_streams_do_not_disturb_each_other(make) -> None:
    heldout = PromptSource(split="validation", limit=8)
    data, other = (attach(make(heldout=heldout), 0, 1) for _ in range(2))
    data.draw(5, "heldout")
    assert questions(data.draw(5, "replacement")) == questions(other.draw(5, "replacement"))
    train = questions(other.train_batch(0).prompts) + questions(other.train_batch(1).prompts)
    assert questions(other.draw(8, "replacement")) != train
    assert not set(questions(other.draw(8, "heldout"))) & {f"{n}+1=" for n in range(10)}


def test_held_out_prompts_must_have_a_source(make) -> None:
    with pytest.raises(ValueError, match=r"set data\.heldout"):
        attach(make(), 0, 1).draw(1, "heldout")


@pytest.mark.parametrize(("num_questions", "batch_size", "world_size"), [(10, 4, 1), (10, 4, 3), (2, 4, 4), (9, 3, 2)])
def test_every_question_is_asked_and_ranks_agree_on_the_number_of_batches(
    num_questions: int, batch_size: int, world_size: int
) -> None:
    rows = [EncodedPrompt([5], {"index": number}) for number in range(num_questions)]
    ranks = [list(ValBatches(rows, batch_size, 0, rank, world_size)) for rank in range(world_size)]
    loader = ValBatches(rows, batch_size, 0, 0, world_size)
    assert {len(batches) for batches in ranks} == {len(loader)}
    asked = [example["index"] for batches in ranks for batch in batches for example in batch.prompts.examples]
    assert set(asked) == set(range(num_questions))
    assert len(asked) - num_questions < world_size


def test_validation_sets_are_named_and_a_suite_is_its_members(make, tokenizer_path: str) -> None:
    data = attach(make(), 0, 1)
    assert [sum(batch.num_prompts for batch in loader) for loader in data.val_dataloader()] == [5, 3]
    suite = PromptDataModule(tokenizer_path, val=[PromptSource(benchmark="competition")])
    assert suite.val_names == ["aime24", "aime25", "amc23", "olympiadbench"]


def test_a_batch_that_ranks_cannot_share_is_refused(make) -> None:
    with pytest.raises(ValueError, match=r"batch_size is 4, which 3 ranks .* multiple of 3"):
        attach(make(), 0, 3).train_dataloader()


def test_an_endless_run_is_refused(tmp_path, make) -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_steps must be set"):
        run(tmp_path, make(), -1, max_epochs=1)


def test_settings_that_cannot_be_are_refused(tokenizer_path: str) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size is 0"):
        PromptDataModule(tokenizer_path, batch_size=0)
    with pytest.raises(ValueError, match=r"data\.rules\.max_prompt_tokens is 0"):
        PromptRules(max_prompt_tokens=0)
    with pytest.raises(ValueError, match=r"data\.train has no path and no benchmark"):
        PromptDataModule(tokenizer_path, train=PromptSource(path=None))
    with pytest.raises(ValueError, match=r"data\.val\[1\]\.limit is 0"):
        PromptDataModule(tokenizer_path, val=[PromptSource(), PromptSource(limit=0)])


def test_padding_stands_on_the_left() -> None:
    prompts = pad_prompts([EncodedPrompt([7, 8], {}), EncodedPrompt([9], {})], pad_token_id=0)
    assert prompts.ids.tolist() == [[7, 8], [0, 9]]
    assert prompts.lengths.tolist() == [2, 1]
