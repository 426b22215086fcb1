"""Low-rank adapters: the linear maps they change, their PEFT files, and merging them into a backbone."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lockgate.backbones import Backbone
from lockgate.classifiers._record import AdapterShape
from lockgate.errors import GuardError

_TENSORS_FILE = "adapter_model.safetensors"
_CONFIG_FILE = "adapter_config.json"
_VALUE_FILE = "value_head.safetensors"
ADAPTER_PREFIX = "base_model.model."


def adapted_maps(backbone: Backbone, shape: AdapterShape) -> dict[str, nn.Linear]:
    """Return the linear maps that an adapter changes, by their full names in the model."""
    owned = {id(module) for block in shape.blocks for module in backbone.layers[block].modules()}
    found = {
        name: module
        for name, module in backbone.model.named_modules()
        if id(module) in owned and isinstance(module, nn.Linear) and name.rpartition(".")[2] in shape.targets
    }
    return found


def linear_names(backbone: Backbone, shape: AdapterShape) -> tuple[str, ...]:
    """Return the last parts of the names of all linear maps in the adapted layers, sorted."""
    return tuple(
        sorted(
            {
                name.rpartition(".")[2]
                for block in shape.blocks
                for name, module in backbone.layers[block].named_modules()
                if isinstance(module, nn.Linear)
            }
        )
    )


def adapter_bytes(backbone: Backbone, shape: AdapterShape) -> int:
    """Return the size of an adapter's tensors on disk, in bytes: float32, two for each map."""
    maps = adapted_maps(backbone, shape).values()
    return sum(4 * shape.rank * (module.in_features + module.out_features) for module in maps)


@torch.no_grad()
def merge_adapter(backbone: Backbone, shape: AdapterShape, tensors: Mapping[str, Tensor]) -> None:
    """Add each map's low-rank product to its weights. The backbone must own these weights.

    Args:
        tensors: `lora_A` `[rank, in]` and `lora_B` `[out, rank]` of each map, under PEFT's names.

    Raises:
        GuardError: a tensor is missing, has another shape or belongs to no map.
    """
    maps = adapted_maps(backbone, shape)
    expected = {f"{ADAPTER_PREFIX}{name}.lora_{part}.weight" for name in maps for part in "AB"}
    if expected != set(tensors):
        odd = sorted(expected ^ set(tensors))
        raise GuardError(f"adapter: {len(odd)} tensors are missing or of no use, the first is {odd[0]}")
    for name, module in maps.items():
        down = tensors[f"{ADAPTER_PREFIX}{name}.lora_A.weight"]
        up = tensors[f"{ADAPTER_PREFIX}{name}.lora_B.weight"]
        rows, columns = module.weight.shape
        if down.shape != (shape.rank, columns) or up.shape != (rows, shape.rank):
            raise GuardError(
                f"adapter: {name} is {rows} x {columns}; the tensors do not fit at rank {shape.rank}"
            )
        delta = (up.double() @ down.double()) * (shape.alpha / shape.rank)
        module.weight.add_(delta.to(module.weight))


def adapter_config(shape: AdapterShape, base_name: str) -> dict[str, Any]:
    """Return the content of `adapter_config.json`, in the form that PEFT reads."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(shape.targets),
        "layers_to_transform": list(shape.blocks),
        "layers_pattern": "layers",
    }


def write_adapter(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter, and the value head if `tensors` contains one."""
    (folder / _CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    lora = {key: value.contiguous() for key, value in tensors.items() if key.startswith(ADAPTER_PREFIX)}
    value = {key: part.contiguous() for key, part in tensors.items() if not key.startswith(ADAPTER_PREFIX)}
    (folder / _TENSORS_FILE).write_bytes(save(lora, metadata={"format": "pt"}))
    if value:
        (folder / _VALUE_FILE).write_bytes(save(value))


def read_adapter(folder: Path, *, value_head: bool) -> dict[str, Tensor]:
    """Read the tensors of a folder as float32. Raises GuardError if a file is missing or damaged."""
    tensors: dict[str, Tensor] = {}
    for name in (_TENSORS_FILE, _VALUE_FILE) if value_head else (_TENSORS_FILE,):
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise GuardError(
                f"{folder / name}: not readable ({error}); restore the file or train again"
            ) from error
    # Copies, because tensors in the file's memory are not aligned and give slightly different sums.
    return {key: value.float().clone() for key, value in tensors.items()}


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`. Raises GuardError if it is missing or damaged."""
    path = folder / _CONFIG_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GuardError(f"{path}: not readable; restore the file or train again") from error
    if not isinstance(found, dict):
        raise GuardError(f"{path}: expected an object; restore the file or train again")
    return found


def hash_classifier(
    record: Mapping[str, Any], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> str:
    """Return the SHA-256 of a classifier: its record, its adapter's settings and its tensors."""
    digest = hashlib.sha256(json.dumps([record, config], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().float().contiguous()
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
