"""What a model is trained and measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid.config.checks import floats, numbers, positive, share

PACKINGS = ("stream", "document")


@dataclass(frozen=True)
class LessonConfig:
    """What the first steps train on in place of the task's own lengths and loads: short sequences, of which a
    step holds more, so that its tokens stay as many."""

    share: float
    """Share of the steps."""
    seq_len: int
    """Tokens of a sequence; divides the task's."""
    pairs: tuple[int, ...]
    """Loads, as `TaskConfig.pairs`."""
    queries: int | None = None
    """Questions a sequence asks, as `TaskConfig.queries`."""

    def __post_init__(self) -> None:
        floats(self)
        share(self, "share")
        positive(self, "seq_len")
        object.__setattr__(self, "pairs", numbers(self, "pairs"))


@dataclass(frozen=True)
class TaskConfig:
    """What a model is trained and measured on: text, synthetic recall, or a mixture of both.

    Text tokens keep their ids; recall symbols have ids of their own above them, so that one model
    holds both tasks. Recall is multi-query associative recall (Arora et al., Zoology, 2312.04927).
    """

    corpus: str = "stdlib"
    """Text: "stdlib" (the running interpreter's library sources, no network), "stdlib:GLOB" (those that
    match, as "stdlib:*.py" for the modules outside packages), a path or glob of text or parquet files, or
    "hub:NAME" or "hub:NAME:SUBSET" for a hub data set, streamed."""
    tokenizer: str = "bytes"
    """ "bytes" (256 ids) or the name or path of a Hugging Face tokenizer."""
    corpus_tokens: int = 50_000_000
    """Tokens read from the corpus, at most, held-out ones included; reading stops with the documents
    that reach it. The default is held in memory, more lie on disk (`hybrid.data.shards`)."""
    seq_len: int = 128
    """Tokens of a training sequence, text or recall."""
    packing: str = "stream"
    """Where a training window of text may lie. "stream": anywhere, so that it may cross the ends of
    documents, and what a model remembers runs on into the next one. "document": inside one document, each
    place equally likely; documents of seq_len tokens or fewer, their end mark included, are left out.
    Held-out text is measured on the stream in both cases, so that losses can be compared, and so is the text
    that recall hides in."""
    recall_fraction: float = 0.5
    """Share of the training sequences that are recall; 0 is text only, 1 recall only."""
    pairs: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Loads: numbers of key-value pairs, drawn uniformly for every recall sequence."""
    queries: int | None = None
    """Questions a training sequence asks: None asks each key once, as published; a number asks that
    often, with repetition, and shows the value after each question, which speeds up learning.
    Recall is always measured in the published form."""
    lesson: LessonConfig | None = None
    """Short sequences first; None: every step trains on the same lengths and loads."""
    suite_fraction: float = 0.0
    """Share of the recall sequences that are tasks of `hybrid.data.suite`, equally often; the others are
    multi-query associative recall."""
    suite_tasks: tuple[str, ...] = ()
    """Names of the suite's tasks that are trained and measured; empty: all thirteen."""
    recall_vocab: int = 128
    """Recall symbols: half are keys, half are values."""
    eval_pairs: tuple[int, ...] = (4, 8, 16)
    """Loads at which recall is measured."""
    eval_lengths: tuple[int, ...] = (128, 256)
    """Lengths, in tokens, at which recall is measured."""
    eval_sequences: int = 256
    """Sequences behind each measured number; at lengths above `seq_len` as many as hold the same tokens."""

    def __post_init__(self) -> None:
        floats(self)
        for name in ("pairs", "eval_pairs", "eval_lengths"):
            object.__setattr__(self, name, numbers(self, name))
            values = getattr(self, name)
            if not values or any(not isinstance(v, int) or v < 1 for v in values):
                raise ValueError(f"{name} must be whole numbers of at least 1; got {values!r}")
        positive(self, "corpus_tokens", "seq_len", "recall_vocab", "eval_sequences")
        if self.packing not in PACKINGS:
            raise ValueError(f"unknown packing {self.packing!r}; allowed: {', '.join(PACKINGS)}")
        share(self, "recall_fraction")
        share(self, "suite_fraction")
        object.__setattr__(self, "suite_tasks", numbers(self, "suite_tasks"))
        if self.has_suite:
            for name, needed in (("seq_len", 64), ("recall_vocab", 32), ("eval_lengths", 64)):
                value = getattr(self, name)
                if min(value) < needed if isinstance(value, tuple) else value < needed:
                    raise ValueError(f"the suite needs {name} of at least {needed}; got {value}")
        if self.recall_fraction > 0:
            most = min(self.seq_len // 4, self.recall_vocab // 2)
            if max(self.pairs) > most:
                raise ValueError(
                    f"pairs must be at most {most} (a quarter of seq_len {self.seq_len}, half of "
                    f"recall_vocab {self.recall_vocab}); got {max(self.pairs)}"
                )
            room = self.seq_len // 2 - max(self.pairs)
            if self.queries is not None and not 1 <= self.queries <= room:
                raise ValueError(
                    f"queries must be None or 1 to {room} (every second token of seq_len "
                    f"{self.seq_len} after {max(self.pairs)} pairs); got {self.queries!r}"
                )
            if max(self.eval_pairs) > self.recall_vocab // 2:
                raise ValueError(
                    f"eval_pairs must be at most {self.recall_vocab // 2} (half of recall_vocab "
                    f"{self.recall_vocab}); got {max(self.eval_pairs)}"
                )
            if 4 * min(self.eval_pairs) > self.home:
                raise ValueError(
                    f"eval_pairs must hold a load of at most {self.home // 4}, a quarter of the {self.home} "
                    f"tokens at which a task is summed up; got {self.eval_pairs}"
                )

        if self.lesson is not None:
            if self.seq_len % self.lesson.seq_len or self.lesson.seq_len == self.seq_len:
                raise ValueError(
                    f"lesson.seq_len must be below seq_len {self.seq_len} and divide it; "
                    f"got {self.lesson.seq_len}"
                )
            try:
                self.first()
            except ValueError as error:
                raise ValueError(f"lesson: {error}") from error

    def first(self) -> TaskConfig:
        """The task of the first steps, where there is a lesson."""
        lesson = self.lesson
        return replace(self, seq_len=lesson.seq_len, pairs=lesson.pairs, queries=lesson.queries, lesson=None)

    @property
    def home(self) -> int:
        """The length at which a task is summed up: the training length, or else the shortest measured one."""
        return self.seq_len if self.seq_len in self.eval_lengths else min(self.eval_lengths)

    @property
    def reads_text(self) -> bool:
        """Whether text of the corpus is read: as windows, or as the haystack of the suite."""
        return self.recall_fraction < 1 or self.has_suite

    @property
    def has_suite(self) -> bool:
        """Whether tasks of the suite are trained and measured."""
        return self.recall_fraction > 0 and self.suite_fraction > 0
