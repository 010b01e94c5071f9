"""Batches of a task: mixture, streams, exact resume, ranks, evaluation sets."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from hybrid.config import LessonConfig, TaskConfig, TrainConfig
from hybrid.data import module, suite
from hybrid.data.corpus import SHARD_TOKENS, Corpus
from hybrid.data.counters import counter_bits
from hybrid.data.module import TaskData, stream, vocab_size
from hybrid.data.passkeys import Passkeys

TASK = TaskConfig(seq_len=32, pairs=(1, 2, 4), eval_pairs=(4,), eval_lengths=(32,), eval_sequences=50)
TRAIN = TrainConfig(steps=6, batch_size=8, warmup=0)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(batches):
    return {tuple(row) for batch in batches for row in batch["input_ids"].tolist()}


@pytest.fixture
def small_corpus(monkeypatch):
    """Training tokens count up from 0, validation tokens from 10,000."""
    corpus = Corpus(np.arange(5_000), np.arange(10_000, 11_000), 20_000, 1.0, "")
    monkeypatch.setattr(module, "load_corpus", lambda task: corpus)
    return corpus


def test_a_batch_holds_both_tasks_with_their_own_ids():
    batch = TaskData(TASK, TRAIN, 0).train_batch(0)
    ids, labels, recall = batch["input_ids"], batch["labels"], batch["is_recall"]
    assert ids.shape == labels.shape == (8, 32) and recall.tolist() == [True] * 4 + [False] * 4
    assert ids.dtype == labels.dtype == torch.int64 and recall.dtype == torch.bool
    assert (ids[recall] >= 256).all() and (ids[recall] < 256 + TASK.recall_vocab).all()
    asked = labels[recall] != -100
    assert (ids[recall][asked] < 256 + 64).all() and (labels[recall][asked] >= 256 + 64).all()
    assert set(asked.sum(1).tolist()) <= {1, 2, 4}
    assert (ids[~recall] < 256).all() and torch.equal(labels[~recall][:, :-1], ids[~recall][:, 1:])


def test_text_windows_come_from_training_text_only(small_corpus):
    data = TaskData(TASK, TrainConfig(batch_size=64), 0)
    ids, labels, recall = data.train_batch(3).values()
    assert (ids[~recall] < 5_000).all() and (labels[~recall] == ids[~recall] + 1).all()
    starts = torch.cat([b["input_ids"][~b["is_recall"], 0] for b in map(data.train_batch, range(300))])
    assert starts.min() < 60 and starts.max() > 4_967 - 60 and starts.max() <= 4_967


TEXT_ONLY = TaskConfig(seq_len=32, recall_fraction=0.0)


def test_windows_of_the_stream_start_where_the_step_draws_them():
    """Results are stored: no other packing may change what this one draws."""
    data = TaskData(TEXT_ONLY, TRAIN, 4)
    text = data.corpus.train
    for step in (0, 5):
        rng = stream(4, "train", step)
        rng.random()
        starts = rng.integers(len(text) - 32, size=8)
        batch = data.train_batch(step)
        assert batch["input_ids"].tolist() == [text[start : start + 32].tolist() for start in starts]
        assert batch["labels"].tolist() == [text[start + 1 : start + 33].tolist() for start in starts]


@pytest.fixture
def planted_documents(monkeypatch):
    """Training documents of these many tokens, each of one letter and an end, but for a last part without."""
    lengths = (5, 40, 33, 32, 70, 1, 50)
    text = b"".join(bytes([65 + i]) * (n - 1) + b"\0" for i, n in enumerate(lengths))[:-1]
    corpus = Corpus(np.frombuffer(text, np.uint8), np.arange(200, dtype=np.uint8), 256, 1.0, "")
    monkeypatch.setattr(module, "load_corpus", lambda task: corpus)
    return lengths


@pytest.mark.parametrize("piece", [7, 2**24])
def test_windows_of_documents_cross_no_end_and_lie_everywhere_else(planted_documents, monkeypatch, piece):
    monkeypatch.setattr(module, "PIECE", piece)
    data = TaskData(replace(TEXT_ONLY, packing="document"), TrainConfig(batch_size=64), 0)
    seen = Counter()
    for step in range(200):
        batch = data.train_batch(step)
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            window = bytes([*ids, labels[-1]])
            assert len(set(ids)) == 1 and 0 not in ids and window.rstrip(b"\0")[-1] == ids[0]
            seen[chr(ids[0]), window.endswith(b"\0")] += 1
    held = {
        ("B", False): 40 - 33,
        ("B", True): 1,
        ("C", True): 1,
        ("E", False): 70 - 33,
        ("E", True): 1,
        ("G", False): 49 - 32,
    }
    assert seen.keys() == held.keys()
    places = np.array([held[key] for key in seen])
    assert chisquare(list(seen.values()), places / places.sum() * sum(seen.values())).pvalue > 1e-3


def test_packing_changes_training_text_alone(planted_documents):
    one, other = (TaskData(replace(TASK, packing=packing), TRAIN, 0) for packing in ("stream", "document"))
    assert all(map(equal, one.val_text_batches(), other.val_text_batches()))
    first, second = one.train_batch(0), other.train_batch(0)
    recall = first["is_recall"]
    assert torch.equal(recall, second["is_recall"]) and not equal(first, second)
    assert torch.equal(first["input_ids"][recall], second["input_ids"][recall])


def test_documents_that_are_all_too_short_and_texts_without_ends_are_refused(planted_documents, monkeypatch):
    data = TaskData(replace(TEXT_ONLY, seq_len=70, packing="document"), TRAIN, 0)
    with pytest.raises(ValueError, match="more than seq_len tokens; got 70, and the longest has 70"):
        data.train_batch(0)
    monkeypatch.setattr(module, "end_token", lambda task: None)
    with pytest.raises(ValueError, match="needs a tokenizer with an end mark; 'bytes' has none"):
        TaskData(replace(TEXT_ONLY, packing="document"), TRAIN, 0).train_batch(0)


@pytest.mark.parametrize(("fraction", "allowed"), [(0.0, {0}), (0.3, {2, 3}), (0.5, {4}), (1.0, {8})])
def test_the_share_of_recall_holds(small_corpus, fraction, allowed):
    data = TaskData(TaskConfig(seq_len=32, pairs=(1,), eval_pairs=(1,), recall_fraction=fraction), TRAIN, 0)
    counts = [int(data.train_batch(i)["is_recall"].sum()) for i in range(400)]
    assert set(counts) == allowed
    assert np.mean(counts) / 8 == pytest.approx(fraction, abs=0.01)


def test_recall_alone_reads_no_corpus():
    task = TaskConfig(corpus="missing.txt", recall_fraction=1.0)
    assert TaskData(task, TRAIN, 0).train_batch(0)["is_recall"].all()


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 500))
def test_batches_are_functions_of_seed_and_index(seed, other, index):
    first, again, later = (TaskData(TASK, TRAIN, seed).train_batch(i) for i in (index, index, index + 1))
    assert equal(first, again) and not equal(first, later)
    if seed != other:
        assert not equal(first, TaskData(TASK, TRAIN, other).train_batch(index))


def test_the_loader_resumes_where_it_stopped():
    whole = list(TaskData(TASK, TRAIN, 3).train_dataloader())
    assert len(whole) == len(TaskData(TASK, TRAIN, 3).train_dataloader()) == 6
    first = TaskData(TASK, TRAIN, 3).train_dataloader()
    begun = list(islice(first, 2))
    resumed = TaskData(TASK, TRAIN, 3).train_dataloader()
    resumed.load_state_dict(first.state_dict())
    assert all(map(equal, whole, begun + list(resumed)))
    assert len(rows(whole)) == 48


def test_accumulation_cuts_a_batch_into_loader_batches():
    loader = TaskData(TASK, TrainConfig(steps=6, batch_size=8, accumulate=2, warmup=0), 0).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 12 and all(len(b["input_ids"]) == 4 for b in batches)


class Recorder(pl.LightningModule):
    """Keeps the batches it is given, in the trainer's own loop."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch, _):
        self.seen.append(batch)
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder, steps, resume=None):
    recorder = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", enable_checkpointing=False, default_root_dir=folder, **quiet
    )
    trainer.fit(recorder, datamodule=TaskData(TASK, TRAIN, 1), ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{steps}.ckpt", weights_only=False)
    return recorder.seen


def test_a_resumed_trainer_sees_the_batches_an_uninterrupted_one_sees(tmp_path):
    whole = train(tmp_path, 6)
    begun = train(tmp_path, 4)
    rest = train(tmp_path, 6, resume=tmp_path / "4.ckpt")
    assert (len(whole), len(begun), len(rest)) == (6, 4, 2)
    assert all(map(equal, whole, begun + rest))


@pytest.mark.parametrize(("accumulate", "world"), [(1, 2), (2, 1), (2, 2), (4, 2)])
def test_devices_and_accumulation_share_out_the_same_rows(accumulate, world):
    """However a step is cut, its parts are its rows, each once, and each part has its share of recall."""
    train = TrainConfig(steps=3, batch_size=8, accumulate=accumulate, warmup=0)
    whole, cut = TaskData(TASK, TrainConfig(steps=3, batch_size=8, warmup=0), 0), TaskData(TASK, train, 0)
    for step in range(3):
        indices = range(step * accumulate, (step + 1) * accumulate)
        parts = [cut.train_batch(i, rank, world) for i in indices for rank in range(world)]
        assert sum(len(rows([part])) for part in parts) == 8
        assert rows(parts) == rows([whole.train_batch(step)])
        recall = [int(part["is_recall"].sum()) for part in parts]
        assert max(recall) - min(recall) <= 1


LESSON = LessonConfig(0.5, 16, (1, 2), queries=3)


@pytest.mark.parametrize("recall", [0.0, 0.6, 1.0])
def test_a_lesson_is_short_sequences_first_and_then_the_task(small_corpus, recall):
    task = replace(TASK, recall_fraction=recall)
    plain, taught = (TaskData(t, TRAIN, seed=3) for t in (task, replace(task, lesson=LESSON)))
    short = replace(task, seq_len=16, pairs=(1, 2), queries=3)
    alone = TaskData(short, replace(TRAIN, batch_size=16), seed=3)
    for step in range(TRAIN.steps):
        batch, other = taught.train_batch(step), (alone if step < 3 else plain).train_batch(step)
        assert batch["input_ids"].shape == other["input_ids"].shape and batch["input_ids"].numel() == 8 * 32
        # Text starts where a whole window would: only that of the recall rows is the same.
        of_recall = batch["is_recall"] if step < 3 else slice(None)
        assert torch.equal(batch["is_recall"], other["is_recall"])
        for name in ("input_ids", "labels"):
            assert torch.equal(batch[name][of_recall], other[name][of_recall])
    asked = [list(data.recall_eval_batches(32, 4)) for data in (plain, taught)]
    assert all(equal(a, b) for a, b in zip(*asked, strict=True))


def test_devices_share_out_the_rows_of_a_lesson():
    taught = TaskData(replace(TASK, recall_fraction=1.0, lesson=LESSON), TRAIN, seed=0)
    whole, parts = taught.train_batch(0), [taught.train_batch(0, rank, 2) for rank in (0, 1)]
    assert [len(part["input_ids"]) for part in parts] == [8, 8]
    assert rows([whole]) == rows(parts)


def test_recall_beyond_the_training_length_is_asked_on_as_many_tokens():
    data = TaskData(replace(TASK, eval_lengths=(32, 64)), TRAIN, seed=0)
    counts = {n: sum(len(b["input_ids"]) for b in data.recall_eval_batches(n, 4)) for n in (16, 32, 64)}
    assert counts == {16: 50, 32: 50, 64: 25}


def test_repeated_queries_reach_training_but_not_evaluation():
    task = TaskConfig(seq_len=32, pairs=(1, 2, 4), queries=9, eval_pairs=(4,), eval_lengths=(32,))
    batch = TaskData(task, TRAIN, 0).train_batch(0)
    asked = (batch["labels"][batch["is_recall"]] >= 0).sum(1)
    assert set(asked.tolist()) == {9}
    measured = next(TaskData(task, TRAIN, 0).recall_eval_batches(32, 4))
    assert set((measured["labels"] >= 0).sum(1).tolist()) == {4}


def test_train_and_evaluation_never_share_a_stream():
    draws = {
        tuple(stream(seed, purpose, *index).integers(2**62, size=2).tolist())
        for seed in (0, 1, module.EVAL_SEED)
        for purpose in ("train", "eval")
        for index in ((0, 0, 1), (0, 1, 2), (1, 0, 1), (32, 4), (4, 32), (64, 4))
    }
    assert len(draws) == 3 * 2 * 6
    trained = [TaskData(TASK, TRAIN, module.EVAL_SEED).train_batch(i) for i in range(50)]
    asked = list(TaskData(TASK, TRAIN, 0).recall_eval_batches(32, 4))
    assert not rows(trained) & rows(asked)


def test_every_run_answers_the_same_questions():
    one = list(TaskData(TASK, TRAIN, 0).recall_eval_batches(32, 4))
    other = list(TaskData(TASK, TrainConfig(batch_size=32, lr=1.0), 9).recall_eval_batches(32, 4))
    one, other = ({name: torch.cat([b[name] for b in bs]) for name in bs[0]} for bs in (one, other))
    assert equal(one, other) and len(one["input_ids"]) == 50 and one["is_recall"].all()
    assert ((one["distance"] > 0) == (one["labels"] != -100)).all()
    assert ((one["labels"] != -100).sum(1) == 4).all()
    first = torch.cat([b["input_ids"] for b in TaskData(TASK, TRAIN, 0).recall_eval_batches(32, 4, 13)])
    assert torch.equal(first, one["input_ids"][:13])


def test_who_chooses_is_asked_other_questions(small_corpus):
    """Of every kind, as many, none of them one that results are measured on."""
    task = replace(SUITE, eval_sequences=6)
    reported, choosing = (TaskData(task, TRAIN, 0, asked) for asked in ("eval", "select"))

    def asked(data):
        yield from data.val_text_batches()
        yield from data.recall_eval_batches(64, 2)
        yield from data.suite_eval_batches("niah_multikey_2", 64)
        yield from Passkeys().eval_batches(data, 64, 6)

    one, other = (
        [row.tobytes() for batch in asked(data) for row in batch["input_ids"].numpy()]
        for data in (reported, choosing)
    )
    assert len(one) == len(other) == 4 * 6
    assert not set(one) & set(other)
    with pytest.raises(ValueError, match="unknown asked 'train'; allowed: eval, select"):
        TaskData(task, TRAIN, 0, "train")


def test_a_length_too_short_for_its_pairs_is_refused():
    with pytest.raises(ValueError, match="pairs must be at most 4, a quarter of length 16; got 8"):
        next(TaskData(TASK, TRAIN, 0).recall_eval_batches(16, 8))


def test_validation_windows_share_no_target_and_cover_the_text(small_corpus):
    batches = list(TaskData(TASK, TRAIN, 0).val_text_batches(10))
    inputs, targets = (torch.cat([b[name] for b in batches]) for name in ("input_ids", "labels"))
    assert inputs.shape == (10, 32) and inputs.min() == 10_000 and (targets == inputs + 1).all()
    assert targets.unique().numel() == targets.numel() and targets.max() > 10_850
    everything = list(TaskData(TASK, TRAIN, 7).val_text_batches())
    assert sum(len(b["input_ids"]) for b in everything) == 999 // 32
    assert not any(b["is_recall"].any() for b in everything)


def test_a_corpus_shorter_than_a_window_is_refused(small_corpus):
    with pytest.raises(ValueError, match=r"seq_len must be below the 1000 valid tokens .*; got 1000"):
        TaskData(TaskConfig(seq_len=1000), TRAIN, 0).train_batch(0)


SUITE = TaskConfig(seq_len=64, recall_fraction=0.75, suite_fraction=0.5, pairs=(1, 2), eval_sequences=20)


def test_the_suite_has_its_share_of_the_recall_rows():
    data = TaskData(SUITE, TrainConfig(batch_size=16, warmup=0), 0)
    marks = 256 + SUITE.recall_vocab
    batches = [data.train_batch(step) for step in range(20)]
    assert {int(batch["is_recall"].sum()) for batch in batches} == {12}
    with_marks = [int((batch["input_ids"] >= marks).any(1).sum()) for batch in batches]
    assert set(with_marks) == {6}
    assert max(int(batch["input_ids"].max()) for batch in batches) < vocab_size(SUITE)


def test_only_the_named_tasks_of_the_suite_are_trained(monkeypatch):
    made, real = [], suite.sample
    monkeypatch.setattr(
        module.suite,
        "sample",
        lambda rng, symbols, name, *a, **k: made.append(name) or real(rng, symbols, name, *a, **k),
    )
    named = TaskData(replace(SUITE, suite_tasks=("vt", "fwe")), TrainConfig(batch_size=16, warmup=0), 0)
    for step in range(10):
        named.train_batch(step)
    assert set(made) == set(named.suite) == {"vt", "fwe"} and len(made) == 60
    assert set(TaskData(SUITE, TRAIN, 0).suite) == set(suite.TASKS)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("vt", "niah"), "unknown recall task 'niah'; allowed: niah_"),
        (("vt", "vt"), "repeated recall task 'vt'"),
    ],
)
def test_a_wrong_task_of_the_suite_is_refused_before_anything_is_drawn(names, message):
    with pytest.raises(ValueError, match=message):
        TaskData(replace(SUITE, suite_tasks=names), TRAIN, 0)


@pytest.mark.parametrize("name", suite.TASKS)
def test_suite_questions_are_the_same_for_all_runs_and_batch_sizes(name):
    batches = {}
    for size, seed in ((4, 0), (7, 5)):
        data = TaskData(SUITE, TrainConfig(batch_size=size, warmup=0), seed)
        made = list(data.suite_eval_batches(name, 64))
        batches[size] = {key: torch.cat([batch[key] for batch in made]) for key in made[0]}
    assert equal(batches[4], batches[7])
    assert len(batches[4]["labels"]) == 20 and (batches[4]["skipped"][:, 0] > 0).all()
    few = next(data.suite_eval_batches(name, 64, 3))
    assert torch.equal(few["input_ids"], batches[4]["input_ids"][:3])


def test_longer_questions_cost_as_many_tokens():
    data = TaskData(SUITE, TRAIN, 0)
    for length, count in ((64, 20), (128, 10), (320, 4)):
        ids = torch.cat([batch["input_ids"] for batch in data.suite_eval_batches("vt", length)])
        assert ids.shape == (count, length)


def test_the_suite_hides_needles_of_measurement_in_held_out_text(small_corpus):
    data = TaskData(SUITE, TRAIN, 0)
    batch = next(data.suite_eval_batches("niah_single_2", 64))
    assert ((batch["input_ids"] >= 10_000) & (batch["input_ids"] < 11_000)).any()


def bytes_corpus(seed, size=4000):
    rng = np.random.default_rng(seed)
    text = np.cumsum(rng.integers(0, 3, size)).astype(np.uint8)
    return Corpus(text[: size // 2], text[size // 2 :], 256, 1.0, "")


def test_the_counter_of_a_task_is_the_best_order_counted_once_a_corpus(monkeypatch):
    counted = []
    monkeypatch.setattr(module, "counter_bits", lambda *text: counted.append(text) or counter_bits(*text))
    first, second = bytes_corpus(0), bytes_corpus(1)
    found = {}
    for name, corpus in (("first", first), ("again", first), ("second", second)):
        monkeypatch.setattr(module, "load_corpus", lambda task, corpus=corpus: corpus)
        found[name] = TaskData(TASK, TRAIN, 0).counter_bits
        assert found[name] == min(counter_bits(corpus.train, corpus.valid, orders=6).values())
    assert len(counted) == 2 and found["first"] == found["again"] != found["second"]


@pytest.mark.parametrize(
    "changes",
    [{"recall_fraction": 1.0}, {"tokenizer": "some/tokenizer"}, {"corpus_tokens": SHARD_TOKENS + 1}],
)
def test_where_nothing_can_be_counted_there_is_no_counter_and_no_text_is_read(monkeypatch, changes):
    monkeypatch.setattr(module, "load_corpus", lambda task: pytest.fail("text was read"))
    assert TaskData(replace(TASK, **changes), TRAIN, 0).counter_bits is None
