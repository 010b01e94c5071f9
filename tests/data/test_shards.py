"""Texts on disk: the same tokens as in memory, whoever is killed, waits, or finds a damaged file."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_corpus import tokenizer_in

from hybrid.config import TaskConfig, TrainConfig
from hybrid.data import corpus as module
from hybrid.data import module as batches
from hybrid.data import shards
from hybrid.data.corpus import load_corpus
from hybrid.data.module import TaskData

SHARD = 2_000
"""Bytes of a shard in these tests."""
DOCUMENTS = [f"document {i} é∑ " + "spam and eggs " * (i % 7) for i in range(700)]
NAMES = [f"{i:03}.txt" for i in range(700)]

CHILD = f"""
import os, signal, sys, time
from hybrid.config import TaskConfig
from hybrid.data import corpus
corpus.SHARD_TOKENS = {SHARD}
source, wanted, fatal, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
encoder, fsync, calls, encoded = corpus._encoder, os.fsync, [], []

def counting(name):
    encode, vocab = encoder(name)
    def slowly(texts):
        encoded.extend(texts)
        time.sleep(pause)
        return encode(texts)
    return slowly, vocab

def deadly(file):
    calls.append(file)
    if len(calls) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)

corpus._encoder, os.fsync = counting, deadly
print("ready", flush=True)
sys.stdin.readline()
print(corpus.load_corpus(TaskConfig(corpus=source, corpus_tokens=wanted)).fingerprint, len(encoded))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Small shards in a folder of their own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(module, "SHARD_TOKENS", SHARD)
    monkeypatch.setenv("HYBRID_CACHE", str(folder))
    module._load.cache_clear()
    yield folder
    module._load.cache_clear()


@pytest.fixture
def source(tmp_path):
    """A pattern of text files with `DOCUMENTS`."""
    for name, text in zip(NAMES, DOCUMENTS, strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return f"{tmp_path}/*.txt"


@pytest.fixture
def encoded(monkeypatch):
    """The documents encoded so far, in order."""
    seen, encoder = [], module._encoder

    def counting(name):
        encode, vocab = encoder(name)
        return lambda texts: seen.extend(texts) or encode(texts), vocab

    monkeypatch.setattr(module, "_encoder", counting)
    return seen


def load(source, wanted, **fields):
    module._load.cache_clear()
    return load_corpus(TaskConfig(corpus=source, corpus_tokens=wanted, **fields))


def witness(wanted, per, names=NAMES):
    """Both sides by a plain loop: ten in ``per`` documents are held out; reading ends after 64 documents."""
    sides, total = {True: b"", False: b""}, 0
    for index, (name, text) in enumerate(zip(names, DOCUMENTS, strict=True)):
        if index % 64 == 0 and total >= wanted:
            break
        held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % per < 10
        sides[held_out] += text.encode() + b"\0"
        total += len(text.encode()) + 1
    return sides[False], sides[True]


def same(one, other):
    for side in ("train", "valid"):
        np.testing.assert_array_equal(getattr(one, side), getattr(other, side), strict=True)
    assert (one.vocab_size, one.bytes_per_token) == (other.vocab_size, other.bytes_per_token)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("wanted", [2_001, 9_000, 33_333])
def test_shards_hold_the_text_in_order_and_a_bounded_validation_side(source, wanted):
    corpus = load(source, wanted)
    train, valid = witness(wanted, 100 * (wanted // SHARD))
    assert len(train) > SHARD / 2 and (corpus.train.tobytes(), corpus.valid.tobytes()) == (train, valid)
    assert 0 < len(valid) < SHARD / 2
    digest = hashlib.sha256(b"256 %d " % len(train) + train + valid).hexdigest()
    assert corpus.fingerprint == digest[:16] and corpus.bytes_per_token == 1
    for side in (corpus.train, corpus.valid):
        assert type(side) is np.ndarray and isinstance(side.base, np.memmap) and not side.flags.writeable


@pytest.mark.parametrize("bpe", [False, True])
def test_mapped_and_in_memory_are_the_same_corpus(source, tmp_path, monkeypatch, bpe):
    if bpe:
        tokenizer_in(tmp_path / "tokenizer")
    fields = {"tokenizer": str(tmp_path / "tokenizer")} if bpe else {}
    mapped = load(source, 3_999, **fields)
    assert isinstance(mapped.train.base, np.memmap)
    again = load(source, 3_999, **fields)
    monkeypatch.setattr(module, "SHARD_TOKENS", 3_999)
    held = load(source, 3_999, **fields)
    assert not isinstance(held.train.base, np.memmap)
    assert mapped.train.dtype == (np.uint16 if bpe else np.uint8)
    same(mapped, held)
    same(again, held)


def test_one_long_file_holds_out_its_end(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("0123456789" * 1_000)
    with pytest.warns(UserWarning, match=r"book\.txt' ends after 10001 of corpus_tokens=12000"):
        corpus = load(str(path), 12_000)
    assert bytes(corpus.train) + bytes(corpus.valid) == path.read_bytes() + b"\0"
    assert len(corpus.valid) == 10_001 // 60 + 1


def test_batches_of_a_mapped_text_are_those_of_the_text_in_memory(source, monkeypatch):
    train = TrainConfig(steps=4, batch_size=8, warmup=0)
    task = TaskConfig(corpus=source, corpus_tokens=3_999, seq_len=32, recall_fraction=0.0, eval_sequences=4)

    def batches():
        module._load.cache_clear()
        data = TaskData(task, train, 0)
        return [data.train_batch(0, 1, 2), *data.val_text_batches(), *data.last_word_batches()]

    mapped = batches()
    monkeypatch.setattr(module, "SHARD_TOKENS", 3_999)
    held = batches()
    assert len(mapped) == len(held) >= 3
    for one, other in zip(mapped, held, strict=True):
        assert all((one[name] == other[name]).all() for name in other) and one.keys() == other.keys()


def test_windows_of_a_mapped_text_stay_in_their_document(source, monkeypatch):
    """Also across the pieces in which ends are searched for."""
    monkeypatch.setattr(batches, "PIECE", 1_000)
    task = TaskConfig(corpus=source, corpus_tokens=9_000, seq_len=32, recall_fraction=0.0, packing="document")
    data = TaskData(task, TrainConfig(batch_size=64), 0)
    assert isinstance(data.corpus.train.base, np.memmap)
    whole = {text.encode() + b"\0" for text in DOCUMENTS}
    for step in range(10):
        batch = data.train_batch(step)
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            window = bytes([*ids, labels[-1]])
            assert any(window in document for document in whole)


def start(source, cache, wanted, fatal=0, pause=0.0):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, source, str(wanted), str(fatal), str(pause)],
        env=os.environ | {"HYBRID_CACHE": str(cache)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize(
    ("fatal", "kept"),
    [(2, 0), (3, 0), (11, 3), (15, 4)],
    ids=["first half shard", "first unnamed shard", "half shard", "unnamed shard"],
)
def test_a_killed_process_leaves_whole_shards_and_the_next_goes_on(source, cache, encoded, fatal, kept):
    """A shard waits for the disk three times: for its training tokens, validation tokens and its name."""
    process = start(source, cache, 20_000, fatal)
    process.communicate("go\n", timeout=120)
    assert process.returncode == -signal.SIGKILL
    (folder,) = (cache / "corpora").iterdir()
    state = folder / "shards.json"
    reaches = json.loads(state.read_text())["shards"] if state.exists() else []
    assert len(reaches) == kept
    assert (folder / "train.bin").stat().st_size > (reaches[-1][0] if reaches else 0)
    resumed = load(source, 20_000)
    train, valid = witness(20_000, 1_000)
    assert (corpus_bytes := resumed.train.tobytes()) == train and resumed.valid.tobytes() == valid, (
        corpus_bytes
    )
    assert encoded == DOCUMENTS[kept * 64 :][: len(encoded)] and encoded[0] == DOCUMENTS[kept * 64]


def test_a_process_killed_before_the_fingerprint_leaves_only_that_to_do(source, cache, encoded, monkeypatch):
    whole = load(source, 9_000)
    (state,) = cache.glob("corpora/*/shards.json")
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"fingerprint": None}))
    encoded.clear()
    same(load(source, 9_000), whole)
    assert encoded == [] and json.loads(state.read_text()) == content


def test_of_two_processes_one_reads_and_the_other_waits(source, cache):
    processes = [start(source, cache, 20_000, pause=0.2) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120)[0].split() for process in processes]
    fingerprints, counts = zip(*results, strict=True)
    assert len(set(fingerprints)) == 1 and [process.returncode for process in processes] == [0, 0]
    train, valid = witness(20_000, 1_000)
    expected = hashlib.sha256(b"256 %d " % len(train) + train + valid).hexdigest()[:16]
    assert fingerprints[0] == expected
    assert sorted(map(int, counts))[0] == 0 < sorted(map(int, counts))[1]


@pytest.mark.parametrize("side", ["train", "valid"])
def test_a_truncated_file_is_written_again_from_the_last_whole_shard(source, cache, encoded, side):
    whole = load(source, 20_000)
    count, copy = len(encoded), SimpleNamespace(**vars(whole))
    copy.train, copy.valid = whole.train.copy(), whole.valid.copy()
    encoded.clear()
    (path,) = cache.glob(f"corpora/*/{side}.bin")
    reaches = json.loads(path.with_name("shards.json").read_text())["shards"]
    column = ("train", "valid").index(side)
    os.truncate(path, reaches[-1][column] - 1)
    left = sum(reach[column] < reaches[-1][column] for reach in reaches)
    same(load(source, 20_000), copy)
    assert encoded == DOCUMENTS[left * 64 : count] and 0 < len(encoded) < count
    path.unlink()
    encoded.clear()
    same(load(source, 20_000), copy)
    assert len(encoded) == count


def test_another_text_of_the_same_name_is_read_anew(source, tmp_path):
    before = load(source, 9_000)
    path = tmp_path / NAMES[1]
    path.write_text(path.read_text(encoding="utf-8").replace("spam", "SPAM"), encoding="utf-8")
    after = load(source, 9_000)
    assert after.fingerprint != before.fingerprint and b"SPAM" in after.train.tobytes()


def test_a_full_disk_is_named_before_anything_is_read(source, cache, encoded, monkeypatch):
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2_000_000_000))
    wanted = 3_000_000_000
    message = r"corpus_tokens=3000000000 needs 3\.0 GB more in .*/cache/.*, which has 2\.0 GB free"
    with pytest.raises(ValueError, match=message):
        load(source, wanted)
    assert encoded == [] and not list(cache.glob("corpora/*/shards.json"))
    whole = load(source, 9_000)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    same(load(source, 9_000), whole)


def test_no_text_is_refused(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"text": []}).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet' holds no text"):
        load(str(tmp_path / "empty.parquet"), 9_000)


def test_a_hub_corpus_goes_on_in_the_file_it_was_in(tmp_path, cache, monkeypatch, encoded):
    import datasets

    for part in range(5):
        rows = DOCUMENTS[part * 140 : (part + 1) * 140]
        lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        (tmp_path / f"part{part}.jsonl").write_text(lines)
    files = sorted(map(str, tmp_path.glob("*.jsonl")))
    rows = datasets.load_dataset("json", data_files=files, split="train", streaming=True)
    assert [row["text"] for row in rows] == DOCUMENTS
    opened, readers = [], module._readers

    def watched(source):
        found = readers(source)
        assert len(found) == 5
        return [lambda i=i: opened.append(i) or found[i]() for i in range(5)]

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    monkeypatch.setattr(module, "_require_hub", lambda wanted: None)
    monkeypatch.setattr(module, "_readers", watched)
    whole = load("hub:owner/name", 33_333)
    train, valid = witness(33_333, 1_600, DOCUMENTS)
    assert (whole.train.tobytes(), whole.valid.tobytes()) == (train, valid)
    assert opened == [0, 1, 2, 3, 4]
    (state,) = cache.glob("corpora/*/shards.json")
    content = json.loads(state.read_text())
    assert content["shards"][4][4:] == [2, 40]
    state.write_text(json.dumps(content | {"fingerprint": None, "shards": content["shards"][:5]}))
    opened.clear()
    encoded.clear()
    same(load("hub:owner/name", 33_333), whole)
    assert opened[0] == 2 and encoded[0] == DOCUMENTS[320]
