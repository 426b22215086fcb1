"""Synthesis: generators and resumable pipelines that turn a constitution into labelled exchanges."""

from lockgate.synthesis._batches import Batch, BatchOutput, run_batch
from lockgate.synthesis._cache import CachedGenerator, RequestCache
from lockgate.synthesis._embedded import EmbeddedGenerator
from lockgate.synthesis._endpoint import EndpointGenerator
from lockgate.synthesis._endpoint_config import EndpointConfig
from lockgate.synthesis._executors import Executor, LocalExecutor, executor_named
from lockgate.synthesis._generic import DedupStep, FilterStep, GenerateStep, MapStep, SplitStep
from lockgate.synthesis._pipeline import Pipeline, PipelineResult, StepProgress, StepReport, room_on
from lockgate.synthesis._ray import RayExecutor
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
from lockgate.synthesis._step import GeneratorSource, Step, StepContext
from lockgate.synthesis._usage import Budget, Estimate, Prices, Usage, estimate_requests

__all__ = [
    "Batch",
    "BatchOutput",
    "Budget",
    "CachedGenerator",
    "Completion",
    "DedupStep",
    "DryRunGenerator",
    "EmbeddedGenerator",
    "EndpointConfig",
    "EndpointGenerator",
    "Estimate",
    "Executor",
    "FilterStep",
    "GenerateStep",
    "GenerationFailure",
    "GenerationRequest",
    "Generator",
    "GeneratorSource",
    "LocalExecutor",
    "MapStep",
    "Outcome",
    "Pipeline",
    "PipelineResult",
    "Prices",
    "RayExecutor",
    "Reject",
    "RequestCache",
    "Row",
    "ScriptedGenerator",
    "SplitStep",
    "Step",
    "StepContext",
    "StepProgress",
    "StepReport",
    "Usage",
    "derive_row",
    "estimate_requests",
    "estimate_tokens",
    "executor_named",
    "room_on",
    "row_id",
    "row_seed",
    "run_batch",
]
