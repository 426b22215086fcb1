"""Checkpoints: parameters and optimiser state in one file. A resumed run ends with the same bits."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lockgate.durable import atomic_path


def save_checkpoint(
    path: Path, parameters: Sequence[Tensor], optimiser: torch.optim.Optimizer, *, run: str, done: int
) -> None:
    """Write a checkpoint. The file is replaced atomically.

    Args:
        path: file of the checkpoint.
        parameters: trained parameters.
        optimiser: optimiser that holds the state of these parameters.
        run: key of data and settings. `restore_checkpoint` accepts only an equal one.
        done: number of finished epochs or steps.
    """
    state = {f"parameter{number}": parameter.detach() for number, parameter in enumerate(parameters)}
    for number, parameter in enumerate(parameters):
        for name, value in optimiser.state[parameter].items():
            state[f"optimiser{number}.{name}"] = value
    with atomic_path(path) as part:
        save_file(state, part, metadata={"done": str(done), "run": run})


def restore_checkpoint(
    path: Path, parameters: Sequence[Tensor], optimiser: torch.optim.Optimizer, *, run: str
) -> int:
    """Restore parameters and optimiser state from a checkpoint.

    Returns:
        The `done` of the checkpoint. 0 if the file is missing, damaged or belongs to another run; nothing
        is changed then.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
        if meta.get("run") != run:
            return 0
        state = load_file(path)
    except SafetensorError:
        return 0
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.copy_(state[f"parameter{number}"])
    for number, parameter in enumerate(parameters):
        names = [key for key in state if key.startswith(f"optimiser{number}.")]
        optimiser.state[parameter] = {key.split(".", 1)[1]: state[key] for key in names}
    return int(meta["done"])
