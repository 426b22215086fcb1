"""The probe inside vLLM. Importing this room does not import vLLM; `worker`, `scheduler` and `models` do."""

from lockgate.vllm._launch import ENVIRONMENT, command_line, engine_arguments, register, require_vllm
from lockgate.vllm._settings import Release, Settings

__all__ = [
    "ENVIRONMENT",
    "Release",
    "Settings",
    "command_line",
    "engine_arguments",
    "register",
    "require_vllm",
]
