"""Generators by name and by how to make them, as the factory and other processes need them."""

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
    source: str = "embedded", *, dtype: str = "float32", device: str = "cpu", streams: int = 32
) -> GeneratorSource:
    """A backbone in process; loaded at the first question. See `EmbeddedGenerator.load`.

    A folder goes by its own name and a hash of its files: answers of another model are never taken for its.
    The embedded model's name is the same in every version; answers are kept under a hash of what it is made
    from besides.
    """
    folder = source != "embedded" and Path(source).is_dir()
    model = _name_folder(Path(source)) if folder else source
    name = f"{model}/{dtype}/{streams}"
    identity = f"{name} {_embedded_version()}" if source == "embedded" else name
    make = partial(
        EmbeddedGenerator.load,
        source,
        dtype=dtype,
        device=device,
        streams=streams,
        name=name,
        identity=identity,
    )
    return GeneratorSource(name, make, identity=identity)


def endpoint_source(config: EndpointConfig, *, budget: Budget | None = None) -> GeneratorSource:
    """An OpenAI-compatible endpoint; its name in data and cards is the model's.

    Sources with one `budget` spend it together, as a writer and a judge should; it is kept in one process.
    """
    make = partial(EndpointGenerator, config, budget=budget)
    return GeneratorSource(config.model, make, identity=config.identity)


def _embedded_version() -> str:
    """12 hex digits of what pins the embedded model; no weights are read."""
    from lockgate.backbones import embedded_identity

    text = json.dumps(embedded_identity(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _name_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return f"{folder.resolve().name}@{digest.hexdigest()[:12]}"
