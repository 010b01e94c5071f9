"""One step of training by itself: the models that are timed, and what a step of theirs needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybrid.bench import clock
from hybrid.checkpoints.checkpoint import save
from hybrid.checkpoints.fla_config import to_fla
from hybrid.config import RunSpec
from hybrid.data.module import TaskData
from hybrid.models.hybrid_lm import row_mean_loss
from hybrid.models.mlps import inner_width
from hybrid.training.cuda_graphs import recorded
from hybrid.training.fit import LitHybridLM

PARTS = ("data", "forward", "backward", "update")
"""Parts of a step: making the batch, loss included in the forward pass, gradients, clipping and AdamW."""


def hybrid(run: RunSpec) -> nn.Module:
    """The run's model, as its training builds it."""
    module = LitHybridLM(run)
    torch.manual_seed(run.seed)
    module.configure_model()
    return module.model


def llama(run: RunSpec) -> nn.Module:
    """Hugging Face's Llama with the sizes of the run's full-attention model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = run.model
    torch.manual_seed(run.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            intermediate_size=inner_width(model),
            num_hidden_layers=model.depth,
            num_attention_heads=model.attention.num_heads,
            num_key_value_heads=model.kv_heads,
            rms_norm_eps=model.norm_eps,
            rope_theta=model.attention.rotary.theta,
            tie_word_embeddings=model.tie_embeddings,
            use_cache=False,
        )
    )


def fla_model(run: RunSpec) -> nn.Module:
    """flash-linear-attention's model class for the run, with the weights of `hybrid`."""
    import fla.models

    with tempfile.TemporaryDirectory() as folder:
        save(hybrid(run), folder)
        (name,) = to_fla(run.model)["architectures"]
        return getattr(fla.models, name).from_pretrained(folder, dtype=torch.float32)


@dataclass
class Step:
    """A model and what one step of its training needs; the next call takes the next batch."""

    run: RunSpec
    build: Callable[[RunSpec], nn.Module]
    device: str

    def __post_init__(self) -> None:
        self.data = TaskData(self.run.task, self.run.train, self.run.seed)
        self.model = self.build(self.run).to(self.device).train()
        train = self.run.train
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), train.lr, train.betas, train.eps, train.weight_decay, fused=True
        )
        self.index = 0
        self.loss = self.forward

    def record(self) -> None:
        """On a GPU, play the forward and backward pass back from now on, as training does."""
        if self.device == "cuda":
            self.loss = recorded(self.model, self.forward, self.batch())

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.data.rows * self.run.task.seq_len

    def batch(self) -> dict[str, Tensor]:
        """The next batch, on the device."""
        self.index += 1
        batch = self.data.train_batch(self.index)
        return {name: batch[name].to(self.device) for name in ("input_ids", "labels")}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss; on a GPU in bfloat16 as in training."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            logits = self.model(batch["input_ids"])[0]
        return row_mean_loss(logits, batch["labels"])

    def update(self) -> None:
        """Clip the gradients and let AdamW take its step."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.run.train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def __call__(self) -> None:
        self.loss(self.batch()).backward()
        self.update()

    def held(self) -> int:
        """Bytes of the weights and of AdamW's moments, which stay between steps."""
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *moments))

    def peak(self) -> int | None:
        """Bytes that one more step of this model needs at most on a GPU, those of other models on it left
        out; None on a CPU, where nobody counts them by tensor."""
        if self.device != "cuda":
            return None
        others = torch.cuda.memory_allocated() - self.held()
        torch.cuda.reset_peak_memory_stats()
        self()
        return torch.cuda.max_memory_allocated() - others

    def by_part(self) -> dict[str, float]:
        """Seconds of each of `PARTS` of one step."""
        made: dict = {}
        calls = {
            "data": lambda: made.update(batch=self.batch()),
            "forward": lambda: made.update(loss=self.forward(made["batch"])),
            "backward": lambda: made["loss"].backward(),
            "update": self.update,
        }
        return {part: clock.timed(calls[part], self.device) for part in PARTS}
