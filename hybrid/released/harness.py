"""A HybridLM as lm-evaluation-harness sees it: it scores continuations and writes text."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hybrid.checkpoints.checkpoint import fetch
from hybrid.mixers.norms import full_precision
from hybrid.models.hybrid_lm import HybridLM

TOKENIZER = "tokenizer.json"
GREEDY = {"do_sample", "temperature", "until", "max_gen_toks"}


class Harness(TemplateLM):
    """The three questions the harness asks, answered as its own Hugging Face class answers them.

    Tokens, the start token included, are what the tokenizer makes of a text by default. Text that
    does not fit into `max_length` loses its beginning.
    """

    def __init__(
        self, model: HybridLM, tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int = 8
    ) -> None:
        """
        Args:
            model: on the device where it is to run.
            tokenizer: with an end token, and with no more ids than the model has.
            max_length: tokens of a text, at most.
            batch_size: texts read side by side, at most.

        Raises ``ValueError`` for a tokenizer that does not fit the model, or a number below 1.
        """
        super().__init__()
        for name, value in {"max_length": max_length, "batch_size": batch_size}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} ids; the model holds {model.config.vocab_size}"
            )
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer must have an end token; got none")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.max_gen_toks = 256
        self.truncated = 0
        """Texts that have lost their beginning."""
        self.tokens = 0
        """Tokens read and written, padding included."""
        self._device = model.lm_head.weight.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: the start token, or the end token where there is none."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else start

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer was read from."""
        return self.tokenizer.name_or_path

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
        """Ids of a text; None adds special tokens unless the text begins with the start token."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **_) -> list[tuple[float, bool]]:
        """Requests (texts, context ids, continuation ids) -> log-probability of the continuation in
        nats, and whether it is the most probable one token by token."""
        longest_first = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        answers: list = [None] * len(requests)
        for batch in self._batches(longest_first, "scoring", disable_tqdm):
            for index, answer in zip(batch, self._score([requests[i][1:] for i in batch]), strict=True):
                answers[index] = answer
        return answers

    @torch.no_grad()
    def _score(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        inputs = []
        for context, continuation in pairs:
            if len(continuation) > self.max_length:
                raise ValueError(
                    f"a continuation has {len(continuation)} tokens, more than max_length {self.max_length}"
                )
            inputs.append(self._fitted(context + continuation, self.max_length + 1)[:-1])
        # Padding stands at the end, where a causal model does not see it.
        ids = pad_sequence([torch.tensor(row) for row in inputs], batch_first=True).to(self._device)
        self.tokens += ids.numel()
        hidden = self.model.model(ids).x
        sizes = [len(continuation) for _, continuation in pairs]
        ends = [len(row) for row in inputs]
        scored = torch.cat([h[end - n : end] for h, end, n in zip(hidden, ends, sizes, strict=True)])
        logits = full_precision(self.model.lm_head(scored))
        targets = torch.tensor([token for _, c in pairs for token in c], device=self._device)
        scores = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0].split(sizes)
        greedy = (logits.argmax(-1) == targets).split(sizes)
        return [(s.sum().item(), bool(g.all())) for s, g in zip(scores, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts in nats, read in windows of `max_length` tokens.

        As in the harness's own class, a start token that the tokenizer adds is scored too.
        """
        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
                )
            ]
            for request in requests
        ]
        flat = [(None, *window) for text in windows for window in text]
        scores = iter(self._loglikelihood_tokens(flat, disable_tqdm))
        return [sum(next(scores)[0] for _ in text) for text in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, cut at the end token or the first stop string.

        The prompt is read in pieces and its state kept. Prompts of one length share a batch: the state
        of a recurrence cannot skip padding. Raises ``ValueError`` for options other than greedy ones,
        and where `max_length` leaves no room for a prompt.
        """
        answers: list = [None] * len(requests)
        groups, stops = defaultdict(list), {}
        for index, request in enumerate(requests):
            context, given = request.args
            options = normalize_gen_kwargs(given, self.max_gen_toks)
            if odd := {key for key in options if key not in GREEDY}:
                raise ValueError(f"generation options must be of {sorted(GREEDY)}; got {sorted(odd)}")
            if options["do_sample"]:
                raise ValueError(f"generation must be greedy; got do_sample with {given!r}")
            new = options["max_gen_toks"]
            if new >= self.max_length:
                raise ValueError(f"max_gen_toks must be below max_length {self.max_length}; got {new}")
            prompt = self._fitted(self.tok_encode(context), self.max_length - new)
            groups[len(prompt), new].append((index, prompt))
            stops[index] = options["until"]
        for (length, new), rows in sorted(groups.items(), reverse=True):
            for batch in self._batches(rows, f"writing after {length} tokens", disable_tqdm):
                ids = torch.tensor([prompt for _, prompt in batch], device=self._device)
                written = self.model.generate(ids, new)[:, length:].tolist()
                self.tokens += ids.numel() + len(batch) * new
                for (index, _), tokens in zip(batch, written, strict=True):
                    answers[index] = self._text(tokens, stops[index])
        return answers

    def _fitted(self, tokens: list[int], room: int) -> list[int]:
        self.truncated += len(tokens) > room
        return tokens[-room:]

    def _text(self, tokens: list[int], stops: list[str]) -> str:
        if self.eot_token_id in tokens:
            tokens = tokens[: tokens.index(self.eot_token_id)]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return postprocess_generated_text(text, stops, think_end_token=None)

    def _batches(self, rows: list, doing: str, disable_tqdm: bool):
        starts = range(0, len(rows), self.batch_size)
        for start in tqdm(starts, desc=doing, disable=disable_tqdm):
            yield rows[start : start + self.batch_size]


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a hub id, or `byte_tokenizer` for "bytes".

    Code that comes with a tokenizer is not run. Raises ``FileNotFoundError`` where there is none, and
    ``ConnectionError`` as `hybrid.checkpoints.checkpoint.load`.
    """
    if source == "bytes":
        return byte_tokenizer()
    folder = fetch(source, patterns=("*.json",))
    if not (folder / TOKENIZER).is_file():
        raise FileNotFoundError(
            f"{str(source)!r} holds no {TOKENIZER}; name a tokenizer: a folder, a hub id, or 'bytes'"
        )
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One id a byte, as in this book's own models; the zero byte starts and ends every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    # The library writes bytes that are no visible character as the characters from U+0100 on.
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    ids = {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    end = "\0"
    ids[end] = ids.pop(chr(256))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{end} $A", special_tokens=[(end, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)
