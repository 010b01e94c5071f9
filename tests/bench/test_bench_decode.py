"""Reading and decoding: what is kept, what is counted, and that a timed token is forgotten."""

from __future__ import annotations

import pytest
import torch

from hybrid.bench import BenchSpec, clock, decode

SPEC = BenchSpec("decode", "smoke", repeats=2, lengths=(20, 33))


@pytest.fixture
def readers():
    return dict(decode._readers(SPEC, torch.float32))


def test_bytes_are_those_of_the_count(monkeypatch):
    monkeypatch.setattr(clock, "MATRIX", 64)
    monkeypatch.setattr(clock, "COPIED", 1 << 16)
    rows = decode.measure(SPEC, progress=False)["decode"]
    assert [row["length"] for row in rows] == [20] * 4 + [33] * 4
    for row in rows:
        assert row["bytes"] == pytest.approx(row["expected_bytes"], rel=0.02), row["implementation"]
        assert row["ms"] > 0 and row["prefill_ms"] > 0
    pure = [row["bytes"] for row in rows if row["ratio"] == "pure"]
    assert pure[0] == pure[1]


def test_a_timed_token_is_forgotten(readers):
    for reader in readers.values():
        reader.read(10)
        kept = reader.bytes()
        reader()
        assert reader.bytes() == kept
        reader.read(12)
    llama = readers["transformers Llama"]
    assert llama.state.get_seq_length() == 12


def test_reading_in_pieces_is_reading(readers, monkeypatch):
    monkeypatch.setattr(decode, "PIECE", 5)
    for name, reader in readers.items():
        if name == "transformers Llama":
            continue
        reader.read(13)
        text = torch.Generator().manual_seed(reader.run.seed)
        pieces = [
            torch.randint(reader.run.model.vocab_size, (1, count), generator=text) for count in (5, 5, 3)
        ]
        with torch.no_grad():
            whole = reader.model(torch.cat(pieces, 1)).state
        kept, wanted = (list(decode._tensors(state)) for state in (reader.state, whole))
        assert len(kept) == len(wanted)
        for ours, theirs in zip(kept, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
