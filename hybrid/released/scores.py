"""Scores on tasks of lm-evaluation-harness: measured once, stored as JSON, read as a table."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.checkpoints.checkpoint import CONFIG, fetch, load
from hybrid.config.files import write_atomically
from hybrid.data import hub
from hybrid.runs import provenance
from hybrid.runs.store import Store, StoreWarning

if TYPE_CHECKING:
    import pandas

LANGUAGE = {
    "arc_challenge": "arc_challenge",
    "arc_easy": "arc_easy",
    "hellaswag": "hellaswag",
    "lambada_openai": "lambada",
    "lambada_standard": "lambada",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
}
"""Tasks of the harness -> columns of Tables 2 and 3 (2507.06457 v1), which name no LAMBADA variant."""
RULER = {
    "niah_single_1": "singlevalue",
    "niah_single_2": "singlevalue",
    "niah_single_3": "singlevalue",
    "niah_multikey_1": "multikey",
    "niah_multikey_2": "multikey",
    "niah_multikey_3": "multikey",
    "niah_multivalue": "multivalue",
    "niah_multiquery": "multiquery",
    "ruler_vt": "vt",
    "ruler_cwe": "cwe_fwe",
    "ruler_fwe": "cwe_fwe",
    "ruler_qa_squad": "qa",
    "ruler_qa_hotpot": "qa",
}
"""Tasks of the harness's `ruler` group -> columns of Table 6 (2507.06457 v1)."""
SUITES = {"language": tuple(LANGUAGE), "ruler": tuple(RULER)}
LENGTHS = (1024, 2048, 4096, 8192, 16384)
"""Lengths of RULER's texts in tokens, generated ones included."""
FOLDERS = ("arc", "hellaswag", "lambada", "openbookqa", "piqa", "ruler")
"""The harness's folders that hold the tasks of `SUITES`; it has thousands, which take minutes to index."""
MAX_LENGTH = 2048
"""fla's `max_position_embeddings` where a config has none."""
DIGITS = 12


@dataclass(frozen=True)
class Evaluation:
    """Everything that decides the outcome of one task on one model."""

    model: str
    """Hub id, or the name of a local folder."""
    revision: str
    """Commit of the hub, or a hash of a local folder's config and weights."""
    task: str
    """Name of the task in the harness."""
    length: int | None
    """RULER: tokens of a text; other tasks have none."""
    shots: int
    """Solved examples before each question."""
    limit: int | None
    """Questions, from the first on; None: all."""
    max_length: int
    """Tokens that are kept of a text."""
    tokenizer: str | None
    """Where the tokenizer comes from; None: it lies beside the model."""
    dtype: str
    """Type of the parameters."""

    @property
    def file_name(self) -> str:
        """Model, task and length for a reader, and a hash of all of it."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
        parts = [self.model.replace("/", "--"), self.task, self.length, digest, "json"]
        return ".".join(str(part) for part in parts if part is not None)


def evaluate(
    model: str,
    tasks: Sequence[str] = tuple(SUITES),
    *,
    lengths: Sequence[int] = LENGTHS,
    limit: int | None = None,
    shots: int = 0,
    batch_size: int = 8,
    max_length: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    include: str | Path | None = None,
    recompute: bool = False,
) -> list[Path]:
    """Evaluate a model task by task; what is stored already is not evaluated again.

    Args:
        model: a hub id or a folder.
        tasks: names of `SUITES`, or of tasks.
        lengths: lengths of RULER's texts, in tokens.
        limit: questions of each task and length; None: all (500 of each RULER task).
        shots: solved examples before each question.
        batch_size: texts read side by side.
        max_length: tokens kept of a text; None: the config's, but never less than RULER's length.
        device: None: a GPU where there is one.
        dtype: "float32" or "bfloat16"; None: as stored.
        revision: of the hub's model; None: its main branch.
        tokenizer: a folder, a hub id or "bytes"; None: the model's.
        include: a folder with YAML files of the harness, whose tasks are known besides.
        recompute: ignore what is stored.

    Returns:
        The stored files, one a task and length.

    Raises ``ValueError`` for an unknown task or a number below its smallest, ``ConnectionError`` within
    a second when the hub is needed and cannot be reached, and what `checkpoint.load` raises.
    """
    import torch

    for name, value, least in [
        ("limit", limit, 1),
        ("shots", shots, 0),
        *(("length", n, 1) for n in lengths),
    ]:
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype must be float32 or bfloat16; got {dtype!r}")
    tasks = list(dict.fromkeys(one for name in tasks for one in SUITES.get(name, (name,))))
    folder = fetch(model, revision)
    if include is None:
        _data_sets_within_reach(tasks)

    from hybrid.released.harness import Harness, read_tokenizer

    manager = _manager(include)
    if unknown := [name for name in tasks if name not in manager.all_subtasks]:
        known = ", ".join([*SUITES, *sorted(set(manager.all_subtasks))])
        raise ValueError(f"unknown task {', '.join(unknown)}; allowed: {known}")
    vocabulary = read_tokenizer(tokenizer or folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = load(folder, device=device, dtype=dtype and getattr(torch, dtype))
    context = json.loads((folder / CONFIG).read_text()).get("max_position_embeddings") or MAX_LENGTH
    stored = []
    for task in tasks:
        for length in lengths if task in RULER else (None,):
            lm = Harness(network, vocabulary, max_length or max(context, length or 1), batch_size)
            one = Evaluation(
                model=Path(model).name if Path(model).is_dir() else model,
                revision=_fingerprint(folder) if Path(model).is_dir() else folder.name,
                task=task,
                length=length,
                shots=shots,
                limit=limit,
                max_length=lm.max_length,
                tokenizer=tokenizer,
                dtype=str(network.lm_head.weight.dtype).removeprefix("torch."),
            )
            path = _root() / one.file_name
            if recompute or not path.exists():
                write_atomically(path, json.dumps(_run(lm, one, include), indent=1) + "\n")
            stored.append(path)
    return stored


def stored() -> pandas.DataFrame:
    """One row a stored metric: the columns of `Evaluation`, then metric, value, standard error, the
    number of questions and of texts that lost their beginning, device, date and file.

    A file that cannot be read is named in a `StoreWarning` and left out.
    """
    import pandas

    rows = []
    for path in sorted(_root().glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            about = record["evaluation"] | {name: record[name] for name in ("n", "truncated")}
            about |= {name: record["provenance"][name] for name in ("device", "date")} | {"file": path.name}
            rows += [about | {"metric": name} | entry for name, entry in record["metrics"].items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"{path} is passed over: {error!r}", StoreWarning, stacklevel=2)
    more = ["metric", "value", "stderr", "n", "truncated", "device", "date", "file"]
    return pandas.DataFrame(rows, columns=[*Evaluation.__dataclass_fields__, *more])


def _root() -> Path:
    return Store().root / "evaluations"


def _data_sets_within_reach(tasks: list[str]) -> None:
    """The harness reads data sets from the hub; where that is switched off, from the hub's cache."""
    if not any(os.environ.get(name) for name in hub.OFFLINE) and (reason := hub.unreachable()):
        raise ConnectionError(
            f"the data sets of {', '.join(tasks)} come from the hub, and {reason}; where they are in its "
            f"cache on this machine, set {hub.OFFLINE[0]}=1"
        )


def _manager(include: str | Path | None, **more):
    import lm_eval.tasks

    builtin = Path(lm_eval.tasks.__file__).parent
    paths = [builtin / name for name in FOLDERS] + ([Path(include)] if include else [])
    if missing := [str(path) for path in paths if not path.is_dir()]:
        raise FileNotFoundError(f"no folder {', '.join(missing)}")
    return lm_eval.tasks.TaskManager(include_path=paths, include_defaults=False, metadata=more)


def _run(lm, one: Evaluation, include: str | Path | None) -> dict:
    """What is stored of one evaluation: its settings, its metrics, and the evidence."""
    from lm_eval import simple_evaluate

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # RULER sizes its texts with a tokenizer that it reads itself: it gets one without any code.
        lm.tokenizer.save_pretrained(folder)
        lengths = {"max_seq_lengths": [one.length]} if one.length else {}
        found = simple_evaluate(
            model=lm,
            tasks=[one.task],
            num_fewshot=one.shots,
            limit=one.limit,
            task_manager=_manager(include, tokenizer=folder, **lengths),
            log_samples=False,
        )
    # Of a RULER task the harness reports one metric a length, named after it, and -1 for lengths not run.
    names = {str(one.length): "accuracy"} if one.length else {}
    results = {name: value for name, value in found["results"][one.task].items() if "," in name}
    metrics = {}
    for key, value in results.items():
        name, _, kept = key.partition(",")
        if name.endswith("_stderr") or (names and name not in names):
            continue
        error = results.get(f"{name}_stderr,{kept}")
        error = error if isinstance(error, float) else None
        metrics[names.get(name, name)] = {"value": value, "stderr": error}
    libraries = {name: metadata.version(name) for name in ("lm_eval", "transformers")}
    return {
        "evaluation": asdict(one),
        "metrics": metrics,
        "n": found["n-samples"][one.task]["effective"],
        "truncated": lm.truncated,
        "task_version": found["versions"].get(one.task),
        "batch_size": lm.batch_size,
        "provenance": provenance.collect(
            seconds=round(time.perf_counter() - start, 1),
            tokens=lm.tokens,
            rooms=("models",),
            versions=provenance.versions() | libraries,
        ),
    }


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / CONFIG]):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:DIGITS]
