"""Synthesis: from a constitution to labelled exchanges, through generators and resumable pipelines."""

from lockgate.synthesis._batches import Batch, BatchOutput, run_batch
from lockgate.synthesis._blocks import Block, BlockContext, GeneratorSource
from lockgate.synthesis._cache import CachedGenerator, RequestCache
from lockgate.synthesis._embedded import EmbeddedGenerator
from lockgate.synthesis._endpoint import EndpointGenerator
from lockgate.synthesis._endpoint_config import EndpointConfig
from lockgate.synthesis._engines import Engine, LocalEngine, engine_named
from lockgate.synthesis._generic import DedupBlock, FilterBlock, GenerateBlock, MapBlock, SplitBlock
from lockgate.synthesis._pipeline import Pipeline, PipelineResult, StepProgress, StepReport, room_on
from lockgate.synthesis._ray import RayEngine
from lockgate.synthesis._requests import (
    Completion,
    GenerationFailure,
    GenerationRequest,
    Generator,
    Outcome,
    estimate_tokens,
)
from lockgate.synthesis._rows import Reject, Row, derive_row, row_id, row_seed
from lockgate.synthesis._scripted import DryRunGenerator, ScriptedGenerator
from lockgate.synthesis._usage import Budget, Estimate, Prices, Usage, estimate_requests

__all__ = [
    "Batch",
    "BatchOutput",
    "Block",
    "BlockContext",
    "Budget",
    "CachedGenerator",
    "Completion",
    "DedupBlock",
    "DryRunGenerator",
    "EmbeddedGenerator",
    "EndpointConfig",
    "EndpointGenerator",
    "Engine",
    "Estimate",
    "FilterBlock",
    "GenerateBlock",
    "GenerationFailure",
    "GenerationRequest",
    "Generator",
    "GeneratorSource",
    "LocalEngine",
    "MapBlock",
    "Outcome",
    "Pipeline",
    "PipelineResult",
    "Prices",
    "RayEngine",
    "Reject",
    "RequestCache",
    "Row",
    "ScriptedGenerator",
    "SplitBlock",
    "StepProgress",
    "StepReport",
    "Usage",
    "derive_row",
    "engine_named",
    "estimate_requests",
    "estimate_tokens",
    "room_on",
    "row_id",
    "row_seed",
    "run_batch",
]
