"""Reading config files, in YAML or TOML, and showing what they come to."""

import tomllib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lockgate.errors import ConfigError
from lockgate.gateway.config._schema import Config

MAX_BYTES = 1 << 20
# Messages of pydantic that tell less than we can.
_TOLD = {
    "extra_forbidden": "is not a known key; `lockgate config schema` lists all",
    "missing": "is missing",
}


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that stands twice, because one of them would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                line = node.value[index][0].start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: a key stands twice in one place")
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> Config:
    """Read and check a config file. Its name ends with .yaml, .yml or .toml.

    Raises:
        ConfigError: it can't be read or decoded, or a key is unknown or has a wrong value. The message names
            the file and the key, and no value.
    """
    content = _decode(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys such as `upstreams`, found no mapping")
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        listed = error.errors(include_input=False, include_url=False)
        first, more = listed[0], len(listed) - 1
        key = ".".join(map(str, first["loc"]))
        what = _TOLD.get(first["type"], first["msg"].removeprefix("Value error, "))
        rest = f" (and {more} more)" if more else ""
        raise ConfigError(": ".join(part for part in (str(path), key, what) if part) + rest) from None


def show_config(config: Config, *, resolved: bool = True) -> str:
    """Return a config as YAML. It names where secrets are, and holds none.

    Args:
        resolved: whether to add all defaults.
    """
    content = config.model_dump(mode="json", exclude_unset=not resolved)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def _decode(path: Path) -> Any:  # noqa: ANN401 - any content of a file
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'not readable'}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
        match path.suffix.lower():
            case ".toml":
                return tomllib.loads(text)
            case ".yaml" | ".yml":
                # The loader is a safe one; it only refuses more.
                return yaml.load(text, _Loader)  # noqa: S506
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not valid UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {_place(error)}") from None
    raise ConfigError(f"{path}: expected a name that ends with .yaml, .yml or .toml")


def _place(error: Exception) -> str:
    """Say what is wrong with YAML, without a piece of the file, which may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}: is no YAML: {getattr(error, 'problem', None) or 'malformed'}"
    return f"is no YAML: {error}" if isinstance(error, yaml.YAMLError) else "is no YAML"
