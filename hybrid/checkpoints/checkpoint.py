"""Checkpoints in the Hugging Face form: config.json and safetensors.

Written are flash-linear-attention's model types, or "hybrid_lm" for what it cannot express; read are these
and Hugging Face's own of plain full attention (`hybrid.checkpoints.huggingface`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from hybrid.checkpoints import huggingface
from hybrid.checkpoints.fla_config import NotExpressible, families, family_of, from_fla, to_fla
from hybrid.config import ModelConfig, TaskConfig, TrainConfig
from hybrid.config.specs import Spec, plain, read
from hybrid.data.hub import unreachable
from hybrid.models.hybrid_lm import HybridLM

OWN_TYPE = "hybrid_lm"
"""`model_type` of a model that flash-linear-attention cannot express; its keys are `ModelConfig`'s."""
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PATTERNS = ("*.json", "*.safetensors")
"""Files that are copied from the hub: no code, no pickles."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")
"""Files of which a checkpoint with a tokenizer has one."""


@dataclass(frozen=True)
class CheckpointSpec(Spec):
    """A trained model that no run here made: it can be a teacher as a `RunSpec` can. See `of`."""

    kind = "checkpoint"
    rooms = ("models", "data", "training", "conversion")

    source: str
    """A folder, or a hub id ``OWNER/NAME``; anything that `load` reads."""
    fingerprint: str
    """`fingerprint` of its weights: other weights of that name are refused."""
    model: ModelConfig
    """What its config describes."""
    task: TaskConfig
    """What it is measured on, and what a student learns from; the tokenizer must be the checkpoint's."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Nothing is trained: of this only the batch counts, the sequences that are read at once."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None: its main branch. A folder has none."""

    seed: ClassVar[int] = 0
    """As of a `RunSpec`; no number that is measured depends on it."""

    @classmethod
    def of(
        cls,
        source: str | Path,
        task: TaskConfig,
        train: TrainConfig | None = None,
        revision: str | None = None,
    ) -> Self:
        """The spec of the checkpoint that lies there now; if it has a tokenizer, the task takes that.

        Raises what `load` raises for a source or a config.
        """
        folder = fetch(source, revision)
        if any((folder / name).is_file() for name in TOKENIZERS):
            # A tokenizer has no revision of its own: of another one than the main branch, that of the copy.
            task = replace(task, tokenizer=str(source if revision is None else folder))
        model, train = read_config(folder), train or TrainConfig()
        return cls(str(source), fingerprint(folder), model, task, train, revision)

    @property
    def title(self) -> str:
        """A few words for messages and tables."""
        return f"{self.kind} {self.source}"


def save(model: HybridLM, folder: str | Path) -> None:
    """Write config.json and model.safetensors; flash-linear-attention's classes read them.

    Tied embeddings are stored once. Each file appears whole or not at all, the weights first. A model
    that flash-linear-attention cannot express gets ``model_type`` "hybrid_lm" and a ``UserWarning``
    that names what is lacking; only `load` reads it back.
    """
    from safetensors.torch import save_file

    in_file = str
    try:
        config = to_fla(model.config)
        in_file = family_of(model.config).in_file
    except NotExpressible as error:
        warnings.warn(f"saved as model_type {OWN_TYPE!r}, which only HybridLM reads: {error}", stacklevel=2)
        own = {"model_type": OWN_TYPE, "architectures": [HybridLM.__name__]}
        config = own | plain(model.config)
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {in_file(name): parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    _write(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    _write(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def load(
    path_or_hub_id: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> HybridLM:
    """Read a model from a folder, or from the hub by its id ``OWNER/NAME``.

    Reads flash-linear-attention's model types, "hybrid_lm" and Hugging Face's "llama", "qwen2" and
    "qwen3", in one file or in shards. The tensors are mapped from the files, not drawn first and then
    replaced. Code and pickles are never read.

    Args:
        path_or_hub_id: a folder wins over a hub id of the same spelling.
        device: where the model goes.
        dtype: type of all parameters; None: as stored.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises ``FileNotFoundError`` for a missing folder or file, ``ConnectionError`` within a second when
    the hub is needed and cannot be reached, and ``ValueError`` for a config that `from_fla` or
    `from_huggingface` refuses, for pickled weights, and for tensors that are missing, misshaped, or
    unknown and not all zero. Unknown tensors of flash-linear-attention's types that are all zero
    (``attn.D`` of older Gated DeltaNets) are left out with a warning.
    """
    folder = fetch(path_or_hub_id, revision)
    config = read_config(folder)
    tensors = _read_tensors(folder)
    with torch.device("meta"):
        model = HybridLM(config)
    model_type = _read_json(folder / CONFIG)["model_type"]
    if model_type in families():
        ours = {
            families()[model_type].in_file(n): n for n, _ in model.named_parameters(remove_duplicate=False)
        }
        tensors = {ours.get(name, name): tensor for name, tensor in tensors.items()}
    if model_type in huggingface.FAMILIES:
        try:
            tensors = huggingface.renamed(tensors, model)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
    _fit(tensors, model, folder)
    model.load_state_dict(tensors, strict=False, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.model.embeddings.weight
    return model.to(device=device, dtype=dtype)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fetch(source: str | Path, revision: str | None = None, patterns: tuple[str, ...] = PATTERNS) -> Path:
    """The folder of a model: `source` itself, or its copy from the hub, named after the commit.

    Args:
        source: a folder, or a hub id ``OWNER/NAME``.
        revision: branch, tag or commit on the hub; None: its main branch. A folder has none.
        patterns: which of the hub's files are copied.

    Raises ``FileNotFoundError`` and ``ConnectionError`` as `load`, and ``ValueError`` for a revision of
    a folder.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{str(source)!r} is a local folder, which has no revision; got {revision!r}")
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(f"no folder {str(source)!r}; allowed: a local folder or a hub id OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    reason = unreachable()
    try:
        return Path(
            snapshot_download(
                str(source),
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=reason is not None,
            )
        )
    except LocalEntryNotFoundError:
        raise ConnectionError(
            f"{str(source)!r} is no local folder and not in the hub's cache on this machine, and {reason}; "
            "a local folder with config.json and model.safetensors works without a network"
        ) from None


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object; got {type(value).__name__}")
    return value


def read_config(folder: Path) -> ModelConfig:
    """The config of the model in a folder. Raises ``ValueError`` as `load`."""
    path = folder / CONFIG
    given = _read_json(path)
    readers = {OWN_TYPE: _from_own}
    readers |= dict.fromkeys(families(), from_fla)
    readers |= dict.fromkeys(huggingface.FAMILIES, huggingface.from_huggingface)
    name = given.get("model_type")
    if name not in readers:
        raise ValueError(f"{path}: unknown model_type {name!r}; allowed: {', '.join(readers)}")
    try:
        return readers[name](given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _from_own(given: dict) -> ModelConfig:
    return read(ModelConfig, {k: v for k, v in given.items() if k not in ("model_type", "architectures")})


def fingerprint(folder: Path) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the files of weights in a folder."""
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (folder / INDEX).is_file():
        names = sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))
    else:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{folder} holds pickles, which are never read: {', '.join(pickles)}; allowed: {WEIGHTS}"
            )
        raise FileNotFoundError(f"{folder} holds neither {WEIGHTS} nor {INDEX}")
    for name in names:
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise FileNotFoundError(f"{folder / INDEX} names a shard that is not beside it: {name}")
    return [folder / name for name in names]


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors = {}
    for path in _weight_files(folder):
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    return tensors


def _fit(tensors: dict[str, Tensor], model: HybridLM, folder: Path) -> None:
    """Leave in `tensors` exactly the parameters of `model`; refuse what cannot be its."""
    expected = dict(model.named_parameters())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in expected and name in tensors:
            (first,) = (n for n, p in expected.items() if p is parameter)
            if not torch.equal(tensors.pop(name), tensors.get(first, torch.empty(0))):
                raise ValueError(
                    f"{folder}: {name} is tied to {first}, but the file holds two different tensors"
                )
    unknown = sorted(tensors.keys() - expected.keys())
    foreign = [name for name in unknown if tensors.pop(name).any()]
    if foreign:
        raise ValueError(f"{folder} holds tensors the model does not have: {', '.join(foreign)}")
    if unknown:
        warnings.warn(f"unknown tensors, all zero, left out: {', '.join(unknown)}", stacklevel=3)
    wrong = [
        f"{name} is {tuple(tensors[name].shape) if name in tensors else 'missing'}, needs {tuple(p.shape)}"
        for name, p in expected.items()
        if name not in tensors or tensors[name].shape != p.shape
    ]
    if wrong:
        raise ValueError(f"{folder} does not fit its {CONFIG}: {'; '.join(wrong)}")
