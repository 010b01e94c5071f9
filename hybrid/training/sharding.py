"""One model over several devices: parameters, gradients and optimiser states in shards (FSDP2).

Where a run is computed, not what it is: a sharded run is the run of one device, and its checkpoint
is a single file that goes on under any other strategy and on any number of devices.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch.distributed.checkpoint import state_dict as sharded
from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from hybrid.models.hybrid_lm import HybridLM


def strategy(name: str) -> str | Strategy:
    """What Lightning's Trainer takes for a strategy: "fsdp" shards with `shard`, on GPUs and on CPUs;
    every other name is Lightning's own."""
    return FullySharded(save_distributed_checkpoint=False) if name == "fsdp" else name


def shard(model: HybridLM, mesh: DeviceMesh | None) -> None:
    """Shard a model in place, block by block, so that one block's parameters are whole at a time.

    Args:
        model: on every process the same whole model.
        mesh: [nodes, devices a node], as Lightning lays it out: parameters are sharded over the
            devices of a node and replicated over nodes, whose links are slower. None: nothing to do.
    """
    if mesh is None:
        return
    # A warning about operations in place on a block's output, of which there are none.
    warnings.filterwarnings("ignore", ".*returned a view tensor.*")
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for sharded models, with checkpoints that every other strategy can read.

    Lightning numbers the optimiser's state by the model's order of parameters, PyTorch by the
    optimiser's own, which is another one as soon as parameters are grouped.
    """

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict:
        """The whole state as ``optimizer.state_dict()`` of an unsharded run; empty but on rank 0."""
        options = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
        named = sharded.get_optimizer_state_dict(self.model, _plain(optimizer), options=options)
        names = [name for group in named.get("param_groups", ()) for name in group["params"]]
        return _renamed(named, {name: number for number, name in enumerate(names)}.get) if names else {}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict:
        """Read a checkpoint of any strategy; model and optimisers take their shards of it."""
        path = self.broadcast(checkpoint_path)
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)
        options = sharded.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        sharded.set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer = _plain(optimizer)
            order = [names[p] for group in optimizer.param_groups for p in group["params"]]
            named = _renamed(state, order.__getitem__)
            sharded.set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return checkpoint


def _plain(optimizer) -> torch.optim.Optimizer:
    """The optimiser that Lightning may have wrapped."""
    return getattr(optimizer, "optimizer", optimizer)


def _renamed(state: dict, name: Callable) -> dict:
    """An optimiser's state under other names of its parameters."""
    groups = [group | {"params": [name(p) for p in group["params"]]} for group in state["param_groups"]]
    return {"state": {name(p): moments for p, moments in state["state"].items()}, "param_groups": groups}
