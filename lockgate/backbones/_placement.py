"""Where a model computes and in which precision. Only this file decides it, before anything is loaded."""

import json
import math
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lockgate.errors import BackboneError, ConfigError

DEVICES = "auto, cpu, cuda, cuda:N or mps"
DTYPES = ("float32", "bfloat16", "float16")

_GIB = 2**30
# Numbers in a safetensors file by the format's names: precision and bytes, or bits.
_FLOATS = {"F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2)}
_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "I32": 32,
    "U32": 32,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model computes.

    Attributes:
        device: `cpu`, `cuda:N` or `mps`.
        dtype: precision of weights and activations, one of `DTYPES`.
    """

    device: str
    dtype: str

    @property
    def kind(self) -> str:
        """The kind of the device: `cpu`, `cuda` or `mps`."""
        return self.device.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.dtype} on {self.kind}"


def choose_placement(
    device: str = "auto", dtype: str | torch.dtype = "auto", *, stored: Collection[str] = ()
) -> Placement:
    """Choose device and precision.

    `auto` takes the first of CUDA, MPS and CPU that is there. Its precision is float32. On CUDA it is
    bfloat16 if the checkpoint is stored in 16 bits and the device computes in bfloat16.

    Args:
        device: one of `DEVICES`.
        dtype: `auto` or one of `DTYPES`.
        stored: precisions in which the checkpoint is stored, if known.

    Raises:
        ConfigError: the name is unknown, the device is not there, or it can't compute in this precision.
    """
    wanted = str(dtype).removeprefix("torch.")
    if wanted not in ("auto", *DTYPES):
        raise ConfigError(f"dtype {wanted}: expected auto, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    place = _choose_device(device)
    if wanted == "auto":
        halves = place.startswith("cuda") and bool({"bfloat16", "float16"} & set(stored))
        return Placement(place, "bfloat16" if halves and _has_native_bfloat16(place) else "float32")
    try:
        made = torch.ones(2, 2, device=place, dtype=getattr(torch, wanted))
        (made @ made).float().cpu()
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"dtype {wanted}: {place} can't compute in it; choose float32") from error
    return Placement(place, wanted)


def stored_dtypes(path: Path) -> set[str]:
    """Return the floating-point precisions of the weights in a folder."""
    return {_FLOATS[kind][0] for kind, _ in _tensors(path) if kind in _FLOATS}


def require_memory(path: Path, placement: Placement, *, quantised: bool = False) -> None:
    """Check that the weights fit into memory, before they are loaded.

    Only the weights count, because everything else depends on the use. On a GPU the weights first pass
    through the machine's memory.

    Args:
        path: folder of the model, with safetensors.
        quantised: whether the checkpoint keeps its own precision.

    Raises:
        BackboneError: the weights are larger than the memory that is free.
    """
    size = 4 if placement.dtype == "float32" else 2
    needed = 0.0
    for kind, count in _tensors(path):
        own = _FLOATS[kind][1] if kind in _FLOATS else _BITS.get(kind, 8) / 8
        needed += count * (size if kind in _FLOATS and not quantised else own)
    places = [("cpu", free_memory("cpu"))]
    if placement.kind != "cpu":
        places.append((placement.device, free_memory(placement.device)))
    for place, free in places:
        if free is not None and needed > free:
            raise BackboneError(
                f"{path}: the weights take {needed / _GIB:.1f} GiB in {placement.dtype}, and {place} has "
                f"{free / _GIB:.1f} GiB free; take a smaller model, --dtype bfloat16 or another --device"
            )


def free_memory(device: str) -> int | None:
    """Return the bytes that a process can still use on a device; None if the system does not say."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if kind == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    found = [value for value in (_available(), _group_limit()) if value is not None]
    return min(found) if found else None


def _choose_device(name: str) -> str:
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    if name == "cpu":
        return name
    if name == "mps":
        if not _has_mps():
            raise ConfigError("device mps: this machine has no MPS device; choose cpu or auto")
        return name
    if not re.fullmatch(r"cuda(:\d{1,3})?", name):
        raise ConfigError(f"device {name}: expected {DEVICES}")
    number, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if not torch.cuda.is_available() or not count:
        raise ConfigError(
            f"device {name}: no CUDA device is usable here (no GPU, no driver, or a PyTorch without CUDA); "
            "choose cpu or auto"
        )
    if number >= count:
        raise ConfigError(f"device {name}: this machine has cuda:0 to cuda:{count - 1}")
    return f"cuda:{number}"


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _has_native_bfloat16(device: str) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _tensors(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the format's name of the number type and the count of numbers, for each stored tensor."""
    for file in sorted(path.glob("*.safetensors")):
        try:
            with file.open("rb") as source:
                size = int.from_bytes(source.read(8), "little")
                header = json.loads(source.read(min(size, file.stat().st_size)))
            found = [
                (str(entry["dtype"]), math.prod(map(int, entry["shape"])))
                for name, entry in header.items()
                if name != "__metadata__"
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the library names what is wrong with the file when it loads it
        yield from found


def _available() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _group_limit(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what a container's limit leaves. Memory of files can be given back, so it is free."""
    try:
        limit = int((group / "memory.max").read_text())
        used = re.search(r"^anon (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return max(0, limit - (int(used[1]) if used is not None else 0))
