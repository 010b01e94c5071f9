"""Text corpora: what they hold, how they are split, and how they refuse."""

import hashlib
import json
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

from hybrid.config import TaskConfig
from hybrid.data import corpus as module
from hybrid.data.corpus import load_corpus, text_vocab, vocab_size


@pytest.fixture(autouse=True)
def fresh():
    """Forget corpora of other tests; paths are reused with other contents."""
    module._load.cache_clear()


def documents(tokens):
    return bytes(tokens).split(b"\0")[:-1]


def test_stdlib_is_the_interpreters_own_sources_split_by_file():
    corpus = load_corpus(TaskConfig())
    train, valid = documents(corpus.train), documents(corpus.valid)
    root = Path(sysconfig.get_path("stdlib"))
    files = [p for p in root.rglob("*.py") if not {"site-packages", "test"} & set(p.parts)]
    on_disk = {p.read_bytes().replace(b"\r\n", b"\n") for p in files}
    assert set(train) | set(valid) <= on_disk
    assert (root / "argparse.py").read_bytes() in train + valid
    assert (root / "encodings" / "cp037.py").read_bytes() not in train + valid
    assert not (set(train) & set(valid)) - {b""}
    assert 0.05 <= len(corpus.valid) / (len(corpus.train) + len(corpus.valid)) <= 0.12
    assert len(corpus.train) > 3_000_000
    assert (corpus.vocab_size, corpus.bytes_per_token) == (256, 1.0)
    assert corpus.train.dtype == np.uint8 and not corpus.train.flags.writeable


def test_a_part_of_stdlib_is_its_files_by_their_names_in_the_whole():
    root = Path(sysconfig.get_path("stdlib"))
    part = load_corpus(TaskConfig(corpus="stdlib:[p-t]*.py"))
    same = load_corpus(TaskConfig(corpus=f"{root}/[p-t]*.py"))
    assert (part.train.tobytes(), part.valid.tobytes()) == (same.train.tobytes(), same.valid.tobytes())
    assert 1_000_000 < len(part.train) < len(load_corpus(TaskConfig()).train)
    with pytest.raises(
        FileNotFoundError, match=r"no library sources \*.nothing in .*; name a text file instead"
    ):
        load_corpus(TaskConfig(corpus="stdlib:*.nothing"))


def test_stdlib_is_these_bytes_in_this_order():
    """Stored results carry a fingerprint of this text: neither may change."""
    root = Path(sysconfig.get_path("stdlib"))
    sides = {True: b"", False: b""}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if set(name.parts[:-1]) & module.OUTSIDE or name.name.startswith(("_sysconfigdata", "sitecustomize")):
            continue
        held_out = int(hashlib.sha256(name.as_posix().encode()).hexdigest(), 16) % 100 < 10
        sides[held_out] += path.read_text(encoding="utf-8").encode() + b"\0"
    corpus = load_corpus(TaskConfig())
    assert (corpus.train.tobytes(), corpus.valid.tobytes()) == (sides[False], sides[True])
    digest = hashlib.sha256(b"256 %d " % len(sides[False]) + sides[False] + sides[True])
    assert corpus.fingerprint == digest.hexdigest()[:16]


def test_same_fingerprint_in_another_process_without_heavy_imports():
    code = (
        "import sys; from hybrid.config import TaskConfig; from hybrid.data.corpus import load_corpus\n"
        "print(load_corpus(TaskConfig()).fingerprint)\n"
        "print(*{'torch', 'datasets', 'transformers'} & set(sys.modules))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.split() == [load_corpus(TaskConfig()).fingerprint]


def test_one_load_serves_every_task_on_the_same_text():
    assert load_corpus(TaskConfig()) is load_corpus(TaskConfig(seq_len=64, recall_fraction=0.0))


def write_texts(folder, count=60):
    texts = {f"{i:02}.txt": f"document {i}: " + "é∑x " * (i + 1) for i in range(count)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return texts


def test_a_glob_is_split_by_file_whatever_folder_it_lies_in(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        texts = write_texts(tmp_path / name)
    a, b = (load_corpus(TaskConfig(corpus=f"{tmp_path}/{name}/*.txt")) for name in ("a", "b"))
    train, valid = documents(a.train), documents(a.valid)
    assert sorted(train + valid) == sorted(text.encode() for text in texts.values())
    assert train and valid and train == sorted(train, key=list(map(str.encode, texts.values())).index)
    assert (a.valid == b.valid).all() and a.fingerprint == b.fingerprint
    (tmp_path / "b" / "07.txt").write_text("changed")
    module._load.cache_clear()
    assert load_corpus(TaskConfig(corpus=f"{tmp_path}/b/*.txt")).fingerprint != a.fingerprint


def test_one_file_holds_out_its_end(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("0123456789" * 100)
    corpus = load_corpus(TaskConfig(corpus=str(path)))
    assert bytes(corpus.train) + bytes(corpus.valid) == path.read_bytes() + b"\0"
    assert len(corpus.valid) == 101 and corpus.bytes_per_token == 1.0


def test_parquet_and_json_lines_hold_the_same_rows(tmp_path):
    from datasets import Dataset

    rows = [f"row {i} " * 5 for i in range(80)]
    Dataset.from_dict({"text": rows, "id": range(80)}).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    parquet, lines = (load_corpus(TaskConfig(corpus=f"{tmp_path}/rows.{e}")) for e in ("parquet", "jsonl"))
    train, valid = documents(parquet.train), documents(parquet.valid)
    assert sorted(train + valid) == sorted(map(str.encode, rows)) and train and valid
    assert parquet.fingerprint == lines.fingerprint


def test_a_table_without_text_names_its_columns(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"body": "x", "id": 1}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl needs a column 'text' of strings; it has body, id"):
        load_corpus(TaskConfig(corpus=str(tmp_path / "rows.jsonl")))


@pytest.mark.parametrize("name", ["missing.txt", "none/**/*.parquet"])
def test_a_missing_path_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"no file matches corpus .*(missing\.txt|none/)"):
        load_corpus(TaskConfig(corpus=str(tmp_path / name)))


def test_folders_binary_files_and_empty_tables_are_refused(tmp_path):
    from datasets import Dataset

    with pytest.raises(FileNotFoundError, match="is a folder; name its files"):
        load_corpus(TaskConfig(corpus=str(tmp_path)))
    (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"image\.txt is not UTF-8 text"):
        load_corpus(TaskConfig(corpus=str(tmp_path / "image.txt")))
    Dataset.from_dict({"text": []}).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet' holds no text"):
        load_corpus(TaskConfig(corpus=str(tmp_path / "empty.parquet")))


def tokenizer_in(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["def return self import class " * 20], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    fast.save_pretrained(folder)
    return fast


def test_a_tokenizer_gives_its_ids_an_end_and_bytes_per_token(tmp_path):
    texts = write_texts(tmp_path)
    tokenizer = tokenizer_in(tmp_path / "tokenizer")
    task = TaskConfig(corpus=f"{tmp_path}/*.txt", tokenizer=str(tmp_path / "tokenizer"))
    corpus = load_corpus(task)
    assert text_vocab(task) == corpus.vocab_size == len(tokenizer) > 256
    assert vocab_size(task) == len(tokenizer) + task.recall_vocab
    assert corpus.train.dtype == np.uint16
    decoded = tokenizer.decode(corpus.valid.tolist()).split("</s>")[:-1]
    assert set(decoded) <= set(texts.values())
    assert corpus.bytes_per_token == pytest.approx(sum(len(t.encode()) for t in decoded) / len(corpus.valid))


def test_text_only_needs_no_recall_ids():
    assert vocab_size(TaskConfig(recall_fraction=0.0)) == 256
    assert vocab_size(TaskConfig(recall_vocab=64)) == 256 + 64


def test_a_hub_corpus_is_streamed_up_to_its_bound(monkeypatch):
    import datasets

    asked, read = [], []

    def rows():
        for i in range(10_000):
            read.append(i)
            yield {"text": f"{i:099}", "url": ""}

    def load_dataset(*args, **options):
        asked.append((args, options))
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(module, "_require_hub", lambda wanted: None)
    corpus = load_corpus(TaskConfig(corpus="hub:owner/name:subset", corpus_tokens=20_000))
    assert asked == [(("owner/name", "subset"), {"split": "train", "streaming": True})]
    assert 20_000 <= len(corpus.train) + len(corpus.valid) < 30_000 and len(read) < 300
    assert all(len(d) == 99 for d in documents(corpus.train) + documents(corpus.valid))


def unset(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def switched_off(monkeypatch):
    unset(monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def refused(monkeypatch):
    unset(monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def silent(monkeypatch):
    """A name server that never answers."""
    unset(monkeypatch)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: time.sleep(20))


@pytest.mark.parametrize("outage", [switched_off, refused, silent])
@pytest.mark.parametrize(
    "field", [{"corpus": "hub:HuggingFaceFW/fineweb-edu"}, {"tokenizer": "owner/missing"}]
)
def test_without_a_network_the_offline_default_is_named_within_a_second(monkeypatch, outage, field):
    import datasets  # noqa: F401  the bound is on the refusal, not on the imports
    from transformers import AutoTokenizer

    with pytest.raises(OSError, match="cached files"):
        AutoTokenizer.from_pretrained("owner/other", local_files_only=True)
    outage(monkeypatch)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(ConnectionError, match=r"needs the Hugging Face hub, but .*corpus='stdlib'"):
            load_corpus(TaskConfig(**field))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1, "the best of three, since other programs share the machine"


def test_a_hub_that_answers_is_not_refused(monkeypatch):
    unset(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        module._require_hub("corpus 'hub:x'")


def test_fingerprint_is_the_hash_it_says(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc" * 100)
    corpus = load_corpus(TaskConfig(corpus=str(path)))
    digest = hashlib.sha256(b"256 %d " % len(corpus.train) + path.read_bytes() + b"\0").hexdigest()
    assert corpus.fingerprint == digest[:16]
