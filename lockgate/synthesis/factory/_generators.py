"""Sources of generators: names and functions that make them, in this and in other processes."""

import hashlib
import json
from functools import partial
from pathlib import Path

from lockgate.durable import file_sha256
from lockgate.synthesis._embedded import EmbeddedGenerator
from lockgate.synthesis._endpoint import EndpointGenerator
from lockgate.synthesis._endpoint_config import EndpointConfig
from lockgate.synthesis._step import GeneratorSource
from lockgate.synthesis._usage import Budget


def embedded_source(
    source: str = "embedded", *, dtype: str = "auto", device: str = "auto", streams: int = 32
) -> GeneratorSource:
    """Return the source of an in-process backbone, loaded at the first request. See `EmbeddedGenerator.load`.

    A folder's identity is its name and a hash of its files, so that answers of different models are never
    mixed up. The embedded model has one name in every version; its identity adds a hash of the files that it
    is made from. Device and precision are chosen here, because answers depend on them.

    Raises:
        ConfigError: the device or precision is not there.
    """
    from lockgate.backbones import choose_placement, stored_dtypes

    folder = source != "embedded" and Path(source).is_dir()
    model = _name_folder(Path(source)) if folder else source
    placed = choose_placement(device, dtype, stored=stored_dtypes(Path(source)) if folder else ())
    name = f"{model}/{placed.dtype}/{streams}" + ("" if placed.kind == "cpu" else f"/{placed.kind}")
    identity = f"{name} {_embedded_version()}" if source == "embedded" else name
    make = partial(
        EmbeddedGenerator.load,
        source,
        dtype=dtype,  # a quantised folder keeps its own
        device=placed.device,
        streams=streams,
        name=name,
        identity=identity,
    )
    return GeneratorSource(name, make, identity=identity)


def endpoint_source(config: EndpointConfig, *, budget: Budget | None = None) -> GeneratorSource:
    """Return the source of an OpenAI-compatible endpoint. Its name in data and cards is the model's.

    Sources may share a `budget`, as a writer and a judge should. A budget counts in one process only.
    """
    make = partial(EndpointGenerator, config, budget=budget)
    return GeneratorSource(config.model, make, identity=config.identity)


def _embedded_version() -> str:
    """Return 12 hex digits of a hash that pins the embedded model, without reading its weights."""
    from lockgate.backbones import embedded_identity

    text = json.dumps(embedded_identity(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _name_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return f"{folder.resolve().name}@{digest.hexdigest()[:12]}"
