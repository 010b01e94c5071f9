"""Problems of a few milliseconds for selectors, among them one whose right answer is known."""

import numpy as np
import torch
from flat import flat_config
from torch import nn

from hybrid.config import ModelConfig, RunSpec, TaskConfig, TrainConfig
from hybrid.conversion.distillation import device
from hybrid.conversion.morphable import Morphable
from hybrid.conversion.specs import AlignSpec
from hybrid.data import module
from hybrid.data.corpus import Corpus, vocab_size
from hybrid.data.module import TaskData
from hybrid.data.passkeys import Passkeys
from hybrid.models.hybrid_lm import HybridLM
from hybrid.selection.base import Problem, SelectSpec

TASK = TaskConfig(
    seq_len=64,
    recall_fraction=0.5,
    suite_fraction=0.5,
    recall_vocab=32,
    pairs=(1, 2),
    eval_pairs=(2,),
    eval_lengths=(64, 96),
    eval_sequences=8,
)
TRAIN = TrainConfig(steps=5, batch_size=3, warmup=0, lr=1e-2, eval_every=2)
PASSKEYS = Passkeys(keys=2, size=3, lengths=(37,), eval_lengths=(41, 64), eval_sequences=7)


def config(depth: int) -> ModelConfig:
    """A model whose weights are so large that each mixer counts."""
    widths = {"hidden_size": 16, "mlp_size": 16, "attn_heads": 2, "init_std": 0.3}
    return flat_config("F" * depth, vocab_size=vocab_size(TASK), **widths)


def text(monkeypatch) -> None:
    """Bytes of which few are frequent, in place of a corpus."""
    rng = np.random.default_rng(3)
    tokens = np.minimum(97 + rng.geometric(0.3, 6_000), 255).astype(np.uint8)
    corpus = Corpus(tokens[:5_000], tokens[5_000:], 6_000, 1.0, "")
    monkeypatch.setattr(module, "load_corpus", lambda task: corpus)


def problem(depth: int = 3, branch: str = "gla", folder=None, seed: int = 0) -> Problem:
    """A random teacher that guesses among the values of recall and the frequent bytes alone, so that a part
    of its guesses is right, and a random second mixer."""
    torch.manual_seed(seed)
    teacher = HybridLM(config(depth))
    with torch.no_grad():
        guessed = torch.zeros(teacher.config.vocab_size, 1)
        guessed[256 + 16 : 256 + 32] = 1
        guessed[98:106] = 2
        teacher.lm_head.weight.mul_(guessed)
    morphable = Morphable(teacher, branch).to(device()).requires_grad_(False).eval()
    return Problem(morphable, TaskData(TASK, TRAIN, seed), PASSKEYS, folder)


class Taught(nn.Module):
    """Batches whose labels are what a model holds most likely."""

    def __init__(self, model: HybridLM) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, batch: dict) -> dict:
        guess = self.model(batch["input_ids"].to(device())).logits.argmax(-1).cpu()
        return batch | {"labels": torch.where(batch["labels"] < 0, batch["labels"], guess)}


def planted(monkeypatch, depth: int, needed: tuple[int, ...], folder=None) -> Problem:
    """Second mixers that equal the teacher's attention, but are silent in the `needed` blocks; right is what
    the teacher says. So a set is as good as the teacher exactly if it holds the needed blocks.

    The window of the second mixers is longer than every text.
    """
    torch.manual_seed(1)
    morphable = Morphable(HybridLM(config(depth)), "window", window=128).to(device()).requires_grad_(False)
    for block in needed:
        nn.init.zeros_(morphable.student.model.layers[block].attn.o_proj.weight)
    taught = Taught(morphable.teacher)
    batches = ("val_text_batches", "suite_eval_batches")
    for kind, name in ((Passkeys, "eval_batches"), *((TaskData, name) for name in batches)):
        made = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *args, made=made: map(taught, made(*args)))
    return Problem(morphable.eval(), TaskData(TASK, TRAIN, 0), PASSKEYS, folder)


class Counter:
    """Counts the tokens that pass through the embeddings of any model, three where they are learnt from."""

    def __init__(self, monkeypatch) -> None:
        self.tokens = 0
        forward = nn.Embedding.forward

        def counted(embeddings, ids):
            learns = torch.is_grad_enabled() and embeddings.weight.requires_grad
            self.tokens += ids.numel() * (3 if learns else 1)
            return forward(embeddings, ids)

        monkeypatch.setattr(nn.Embedding, "forward", counted)


def reads_back(selector) -> bool:
    """Whether a spec with this selector survives JSON and keeps its name."""
    align = AlignSpec(RunSpec(config(4), TASK, TRAIN), "gla")
    spec = SelectSpec(align, selector, (1, 2), PASSKEYS)
    back = SelectSpec.from_dict(spec.to_dict())
    return back == spec and back.run_id == spec.run_id


def weights(morphable: Morphable) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in morphable.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    """Whether two sets of weights are bit-equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
