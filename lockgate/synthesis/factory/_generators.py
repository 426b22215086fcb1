"""Generators by name and by how to make them, as the factory and other processes need them."""

import hashlib
from functools import partial
from pathlib import Path

from lockgate.synthesis._blocks import GeneratorSource
from lockgate.synthesis._embedded import EmbeddedGenerator
from lockgate.synthesis._endpoint import EndpointGenerator
from lockgate.synthesis._endpoint_config import EndpointConfig
from lockgate.synthesis._usage import Budget


def embedded_source(
    source: str = "embedded", *, dtype: str = "float32", device: str = "cpu", streams: int = 32
) -> GeneratorSource:
    """A backbone in process; loaded at the first question. See `EmbeddedGenerator.load`.

    A folder goes by its own name and a hash of its files: answers of another model are never taken for its.
    """
    folder = source != "embedded" and Path(source).is_dir()
    model = _name_folder(Path(source)) if folder else source
    name = f"{model}/{dtype}/{streams}"
    make = partial(_load_named, name, source, dtype=dtype, device=device, streams=streams)
    return GeneratorSource(name, make)


def endpoint_source(config: EndpointConfig, *, budget: Budget | None = None) -> GeneratorSource:
    """An OpenAI-compatible endpoint; its name in data and cards is the model's.

    Sources with one `budget` spend it together, as a writer and a judge should; it is kept in one process.
    """
    make = partial(EndpointGenerator, config, budget=budget)
    return GeneratorSource(config.model, make, identity=config.identity)


def _load_named(name: str, source: str, *, dtype: str, device: str, streams: int) -> EmbeddedGenerator:
    generator = EmbeddedGenerator.load(source, dtype=dtype, device=device, streams=streams)
    # Kept answers are keyed by it.
    generator.name = name
    return generator


def _name_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"{folder.resolve().name}@{digest.hexdigest()[:12]}"
