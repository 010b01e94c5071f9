"""A teacher made by hand whose recall lies in two known blocks: a question with a known answer.

Nothing of it is trained: every weight that matters is written down. The circuit is the induction pair of
Olsson et al., 2209.11895: one block looks at the token before, a later one finds where that stood.
"""

from __future__ import annotations

from functools import cache

import torch

from hybrid.config import AttentionConfig, MLPConfig, ModelConfig, TaskConfig, TrainConfig
from hybrid.conversion.morphable import Morphable
from hybrid.data.corpus import text_vocab
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.data.suite import MARKS
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection.base import Problem

DEPTH = 6
PREVIOUS, MATCH = 1, 4
"""The two blocks that recall."""
TASK = TaskConfig(
    corpus_tokens=200_000, seq_len=16, pairs=(1, 2), recall_vocab=16, eval_pairs=(2,), eval_lengths=(16,)
)
PASSKEYS = Passkeys(keys=2, size=1, lengths=(32,), eval_lengths=(32,), eval_sequences=32)

CONST, SYMBOL, TEXT = 0, 1, 2
OWN, BEFORE, FOUND, NOISE, DUMP = (slice(start, start + 16) for start in (3, 19, 35, 51, 67))
"""Channels of the stream: which symbol a token is, which one stood before it, which one was found, random
numbers a byte has, and where harmless blocks write. The output layer reads what was found."""


def problem() -> Problem:
    """The planted teacher, as selectors are given it."""
    return Problem(morphable(), TaskData(TASK, TrainConfig(batch_size=8), seed=0), PASSKEYS)


@cache
def morphable() -> Morphable:
    """A teacher that recalls with two of its six blocks; its second mixers see one token alone.

    Block `PREVIOUS` attends to the token before, by rotary positions. Block `MATCH` attends to where the
    symbol before is the one in question, and passes on the symbol there. The other blocks average random
    numbers over the text, bytes over bytes and symbols over symbols, and write them where nothing reads. A
    window of one token can do neither: it reads the token itself.
    """
    count, text = TASK.recall_vocab, text_vocab(TASK)
    config = ModelConfig(
        "F" * DEPTH,
        attention=AttentionConfig(num_heads=1),
        mlp=MLPConfig(size=8),
        vocab_size=text + count + len(MARKS),
        hidden_size=84,
    )
    model = HybridLM(config).requires_grad_(False)
    symbols, same = torch.arange(text, text + count), torch.eye(count)
    embedding = model.model.embeddings.weight.zero_()
    embedding[:, CONST] = 5
    embedding[:text, TEXT] = embedding[text:, SYMBOL] = 1
    embedding[symbols, OWN] = same
    embedding[:text, NOISE] = 0.5 * torch.randn(text, count, generator=torch.Generator().manual_seed(0))
    model.lm_head.weight.zero_()[symbols, FOUND] = same
    # Channels i and i + 42 of a head turn together, the first pairs fast, the last ones hardly at all.
    fast, slow = torch.arange(8), torch.arange(26, 42)
    angle = config.attention.rotary.theta ** (-fast / 42)
    for index, block in enumerate(model.model.layers):
        block.mlp.down_proj.weight.zero_()
        q, k, v, o = (getattr(block.attn, f"{name}_proj").weight.zero_() for name in "qkvo")
        if index == PREVIOUS:
            q[fast, CONST] = 3
            k[fast, CONST], k[fast + 42, CONST] = 3 * angle.cos(), 3 * angle.sin()
            v[:16, OWN], o[BEFORE, :16] = same, 0.1 * same
        elif index == MATCH:
            q[slow, OWN], k[slow, BEFORE] = 6 * same, 60 * same
            v[:16, OWN], o[FOUND, :16] = same, same
        else:
            for weight in (q, k):
                weight[40, SYMBOL] = weight[41, TEXT] = 2.4
            v[:16, NOISE], o[DUMP, :16] = same, 0.5 * same
    return Morphable(model, "window", window=1)
