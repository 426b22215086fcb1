"""Generators by name and by how to make them, as the factory and other processes need them."""

from functools import partial

from lockgate.synthesis._blocks import GeneratorSource
from lockgate.synthesis._embedded import EmbeddedGenerator
from lockgate.synthesis._endpoint import EndpointGenerator
from lockgate.synthesis._endpoint_config import EndpointConfig


def embedded_source(
    source: str = "embedded", *, dtype: str = "float32", device: str = "cpu", streams: int = 32
) -> GeneratorSource:
    """A backbone in process; loaded at the first question. See `EmbeddedGenerator.load`."""
    make = partial(EmbeddedGenerator.load, source, dtype=dtype, device=device, streams=streams)
    return GeneratorSource(f"{source}/{dtype}/{streams}", make)


def endpoint_source(config: EndpointConfig) -> GeneratorSource:
    """An OpenAI-compatible endpoint; its name in data and cards is the model's."""
    return GeneratorSource(config.model, partial(EndpointGenerator, config))
