"""Passkeys: where each stands and how far away, what is asked, what never varies, and what is refused."""

import itertools
from dataclasses import replace

import pytest
import torch
from flat import flat_config

from hybrid.config import TaskConfig, TrainConfig
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys

TASK = TaskConfig(
    corpus_tokens=200_000, seq_len=16, pairs=(1, 2), recall_vocab=16, eval_pairs=(2,), eval_lengths=(16,)
)
FIRST_KEY, FIRST_VALUE, ASK = 256, 264, 272
CASES = [Passkeys(1, 1, (10,)), Passkeys(4, 2, (64, 57)), Passkeys(3, 3, (61,)), Passkeys(8, 1, (80,), (80,))]


def data(seed: int = 0, rows: int = 4) -> TaskData:
    return TaskData(TASK, TrainConfig(batch_size=rows), seed)


def rows(passkeys: Passkeys, batches: int = 3):
    """Ids, labels and distances of every text, as lists."""
    for step in range(batches):
        batch = passkeys.train_batch(data(), step)
        yield from zip(*(batch[name].tolist() for name in ("input_ids", "labels", "distance")), strict=True)


@pytest.mark.parametrize("passkeys", CASES)
def test_every_passkey_stands_once_and_is_asked_once(passkeys):
    """A search over all places of a text, with nothing known but the ids of keys, values and the mark."""
    size, turn = passkeys.size, 2 + passkeys.size
    for ids, labels, distance in rows(passkeys):
        start = len(ids) - passkeys.keys * turn
        written = {
            ids[at]: (at + 1, ids[at + 1 : at + 1 + size])
            for at in range(start)
            if FIRST_KEY <= ids[at] < FIRST_VALUE
        }
        assert len(written) == passkeys.keys
        assert len({tuple(words) for _, words in written.values()}) == passkeys.keys
        assert all(FIRST_VALUE <= word < ASK for _, words in written.values() for word in words)
        assert sum(token >= FIRST_KEY for token in ids[:start]) == passkeys.keys * (1 + size)
        asked = []
        expected_labels, expected_distance = [-100] * len(ids), [0] * len(ids)
        for at in range(start, len(ids), turn):
            mark, key, *answer = ids[at : at + turn]
            place, words = written[key]
            assert mark == ASK and answer == words
            asked.append(key)
            for part in range(size):
                position = at + 1 + part
                expected_labels[position] = words[part]
                expected_distance[position] = position - (place + part)
        assert sorted(asked) == sorted(written)
        assert labels == expected_labels
        assert distance == expected_distance


def test_passkeys_that_share_a_symbol_keep_their_distances_apart():
    """The case that a search for the symbol alone gets wrong does occur."""
    shared = 0
    for ids, labels, distance in rows(Passkeys(4, 2, (64,)), batches=8):
        for t, (label, apart) in enumerate(zip(labels, distance, strict=True)):
            if apart:
                assert ids[t - apart] == label
                shared += ids.index(label) != t - apart
    assert shared > 0


def test_order_of_questions_and_places_vary():
    orders, places = set(), set()
    for ids, _, _ in rows(Passkeys(2, 1, (40,)), batches=20):
        asked, written = [ids[-5], ids[-2]], [t for t in ids[:-6] if FIRST_KEY <= t < FIRST_VALUE]
        orders.add(asked == written)
        places.add(ids.index(written[0]))
    assert orders == {True, False}
    assert len(places) > 10


def test_batches_depend_on_seed_and_step_alone():
    passkeys = Passkeys(2, 2, (32, 40, 48))
    whole = [[passkeys.train_batch(data(seed), step)["input_ids"] for step in range(6)] for seed in (0, 1)]
    again = data(0)
    for step in reversed(range(6)):
        made = passkeys.train_batch(again, step)["input_ids"]
        assert torch.equal(made, whole[0][step])
        assert made.shape == (4, passkeys.length(again, step))
    assert {batch.shape[1] for batch in whole[0]} == {32, 40, 48}
    everything = [batch.flatten().tolist() for batches in whole for batch in batches]
    assert all(a != b for a, b in itertools.combinations(everything, 2))


def test_questions_of_a_measurement_are_the_same_for_every_seed_and_never_those_of_training():
    passkeys = Passkeys(2, 1, (40,), eval_lengths=(40,), eval_sequences=10)
    one, two = (list(passkeys.eval_batches(data(seed), 40)) for seed in (0, 1))
    assert [len(batch["input_ids"]) for batch in one] == [4, 4, 2]
    for ours, theirs in zip(one, two, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len(next(passkeys.eval_batches(data(), 40, sequences=3))["input_ids"]) == 3
    held_out = data().corpus.valid.tobytes()
    for ids in one[0]["input_ids"].tolist():
        pieces = "".join(chr(t) if t < 256 else "\0" for t in ids[:-6]).split("\0")
        longest = max(pieces, key=len)
        assert longest.encode("latin-1") in held_out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keys": 0}, "keys must be a whole number of at least 1; got 0"),
        ({"size": True}, "size must be a whole number of at least 1; got True"),
        ({"eval_sequences": 1.5}, "eval_sequences must be a whole number of at least 1; got 1.5"),
        ({"lengths": ()}, "lengths must hold at least one length"),
        ({"eval_lengths": ()}, "eval_lengths must hold at least one length"),
        ({"lengths": (64, 55)}, "4 passkeys of 2 symbols need lengths of at least 56; got 55"),
        ({"eval_lengths": (64.0,)}, "need eval_lengths of at least 56; got 64.0"),
    ],
)
def test_wrong_fields_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(Passkeys(), **changes)


def test_tasks_and_models_that_cannot_hold_them_are_refused():
    model = flat_config("FF", vocab_size=273, hidden_size=16, attn_heads=2)
    Passkeys(8, 1, (80,), (80,)).check(model, TASK)
    with pytest.raises(ValueError, match="9 passkeys of 1 symbols need a recall_vocab of at least 18"):
        Passkeys(9, 1, (90,), (90,)).check(model, TASK)
    with pytest.raises(ValueError, match="vocab_size of at least 273; got 272"):
        Passkeys().check(replace(model, vocab_size=272), TASK)
    largest = max(batch["input_ids"].max() for batch in Passkeys().eval_batches(data(), 64))
    assert largest == ASK
