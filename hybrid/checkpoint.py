"""Checkpoints in the Hugging Face form of flash-linear-attention: config.json and safetensors."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from hybrid.config import ModelConfig
from hybrid.fla_config import NotExpressible, from_fla, to_fla
from hybrid.hub import unreachable
from hybrid.model import HybridLM

OWN_TYPE = "hybrid_lm"
"""`model_type` of a model that flash-linear-attention cannot express; its keys are `ModelConfig`'s."""
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PATTERNS = ("*.json", "*.safetensors")
"""Files that are copied from the hub: no code, no pickles."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def save(model: HybridLM, folder: str | Path) -> None:
    """Write config.json and model.safetensors; flash-linear-attention's classes read them.

    Tied embeddings are stored once. Each file appears whole or not at all, the weights first. A model
    that flash-linear-attention cannot express gets ``model_type`` "hybrid_lm" and a ``UserWarning``
    that names what is lacking; only `load` reads it back.
    """
    from safetensors.torch import save_file

    try:
        config = to_fla(model.config)
    except NotExpressible as error:
        warnings.warn(f"saved as model_type {OWN_TYPE!r}, which only HybridLM reads: {error}", stacklevel=2)
        own = {"model_type": OWN_TYPE, "architectures": [HybridLM.__name__]}
        config = own | asdict(model.config) | {"layout": str(model.config.layout)}
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
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

    Reads flash-linear-attention's model types and "hybrid_lm", in one file or in shards. The tensors
    are mapped from the files, not drawn first and then replaced. Code and pickles are never read.

    Args:
        path_or_hub_id: a folder wins over a hub id of the same spelling.
        device: where the model goes.
        dtype: type of all parameters; None: as stored.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises ``FileNotFoundError`` for a missing folder or file, ``ConnectionError`` within a second when
    the hub is needed and cannot be reached, and ``ValueError`` for a config that `from_fla` refuses,
    for pickled weights, and for tensors that are missing, misshaped, or unknown and not all zero.
    Unknown tensors that are all zero (``attn.D`` of older Gated DeltaNets) are left out with a warning.
    """
    folder = fetch(path_or_hub_id, revision)
    config = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder)
    with torch.device("meta"):
        model = HybridLM(config)
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


def _read_config(path: Path) -> ModelConfig:
    given = _read_json(path)
    try:
        if given.get("model_type") == OWN_TYPE:
            fields = {k: v for k, v in given.items() if k not in ("model_type", "architectures")}
            return ModelConfig(**fields)
        return from_fla(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

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
    tensors = {}
    for name in names:
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise FileNotFoundError(f"{folder / INDEX} names a shard that is not beside it: {name}")
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
