"""Time and bytes of reading a text and of adding a token to it, at growing contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hybrid.bench import BenchSpec, clock
from hybrid.bench.step import hybrid, llama
from hybrid.config import RunSpec
from hybrid.models.cost import cache_bytes, parameters, state_bytes
from hybrid.studies.scales import MAIN_MIXER, scale

PIECE = 512
"""Tokens of a piece of the text that is read at once."""
TOKENS = 16
"""Tokens added one after another in a repeat, after one that is not timed; all are forgotten again."""


def measure(spec: BenchSpec, progress: bool) -> dict:
    """Gated DeltaNet at every ratio of the scale, one sequence, float32 (bfloat16 on a GPU).

    Returns:
        ``limits``, see `clock.limits`, and ``decode``, a row a model and context: implementation, ratio
        label, layout, length; ms and spread of one added token; prefill_ms, of reading the text up to
        there from its beginning (once); bytes, what is kept of it; expected_bytes, by `hybrid.models.cost`;
        share, of the time in which a copy would move the parameters and what is kept once.
    """
    limits = clock.limits(spec.device, spec.repeats)
    copied = clock.rate(limits, "copy")
    dtype = torch.bfloat16 if spec.device == "cuda" else torch.float32
    readers = dict(_readers(spec, dtype))
    rows = []
    for length in tqdm(spec.lengths, desc="decoding", unit="context", disable=not progress):
        prefill = {name: reader.read(length) for name, reader in readers.items()}
        seconds = clock.in_turn(readers, spec.repeats, spec.device)
        for name, reader in readers.items():
            each = [s / TOKENS for s in seconds[name]]
            config, kept = reader.run.model, reader.bytes()
            moved = parameters(config) * dtype.itemsize + kept
            rows.append(
                {
                    "implementation": name,
                    "ratio": reader.ratio,
                    "layout": str(config.layout),
                    "length": length,
                    **clock.summary(each),
                    "prefill_ms": 1e3 * prefill[name],
                    "bytes": kept,
                    "expected_bytes": state_bytes(config, dtype.itemsize)
                    + cache_bytes(config, length, dtype.itemsize),
                    "share": moved / copied / median(each),
                }
            )
    return {"limits": limits, "decode": rows}


class Reader:
    """A model and the text it has read so far; a call adds `TOKENS` to it, until they are forgotten."""

    def __init__(self, run: RunSpec, ratio: str, build: Callable, device: str, dtype: torch.dtype) -> None:
        self.run, self.ratio, self.device = run, ratio, device
        self.model: nn.Module = build(run).to(device, dtype).eval()
        self.state, self.kept, self.length, self.seconds = None, None, 0, 0.0
        self.text = torch.Generator().manual_seed(run.seed)

    def tokens(self, count: int) -> Tensor:
        """The next tokens of a random text, [1, count]."""
        return torch.randint(self.run.model.vocab_size, (1, count), generator=self.text).to(self.device)

    @torch.no_grad()
    def read(self, length: int) -> float:
        """Read on up to that length; seconds from the text's beginning."""
        self.forget()
        while self.length < length:
            piece = self.tokens(min(PIECE, length - self.length))
            self.seconds += clock.timed(lambda: self.step(piece), self.device)  # noqa: B023
            self.length += piece.shape[1]
        self.kept = self.state
        return self.seconds

    def step(self, tokens: Tensor) -> None:
        """Read tokens [1, n] after those before."""
        self.state = self.model(tokens, state=self.state, last_only=True).state

    def bytes(self) -> int:
        """Bytes of the memory that the kept tensors hold on to."""
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(self.kept)}
        return sum(held.values())

    @torch.no_grad()
    def prepare(self) -> None:
        """Forget what was added in an earlier repeat, and add a first token: it makes room."""
        self.forget()
        self.step(self.tokens(1))

    @torch.no_grad()
    def __call__(self) -> None:
        for token in self.tokens(TOKENS).split(1, dim=1):
            self.step(token)

    def forget(self) -> None:
        """Back to the text that was read."""
        self.state = self.kept


class LlamaReader(Reader):
    """The same for Hugging Face's Llama with its cache, which grows in place."""

    def step(self, tokens: Tensor) -> None:
        out = self.model(tokens, past_key_values=self.state, use_cache=True, logits_to_keep=1)
        self.state = out.past_key_values

    def forget(self) -> None:
        if self.state is not None and (more := self.state.get_seq_length() - self.length):
            self.state.crop(-more)

    def bytes(self) -> int:
        self.forget()
        return sum(t.nbytes for layer in self.state.layers for t in (layer.keys, layer.values))


def _readers(spec: BenchSpec, dtype: torch.dtype) -> Iterator[tuple[str, Reader]]:
    size = scale(spec.scale)
    for ratio in size.ratios:
        runs = size.specs([MAIN_MIXER], [ratio], [0], "published")
        yield f"hybrid {ratio}", Reader(runs[0], ratio, hybrid, spec.device, dtype)
    yield "transformers Llama", LlamaReader(runs[0], "full", llama, spec.device, dtype)


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
