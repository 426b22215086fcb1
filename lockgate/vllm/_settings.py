"""What a guarded vLLM is told: which guard, what may leave, and where the scored part of a prompt begins.

It travels in vLLM's `additional_config`, because vLLM makes the worker and the scheduler in processes of
their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lockgate.cascade import Regions, StreamState, Thresholds
from lockgate.classifiers import ProbeHead
from lockgate.errors import ConfigError, GuardError
from lockgate.guards import GuardRecord, bundle_folder, read_bundle

KEY = "lockgate"
Release = Literal["scored", "shadow", "cleared"]
_RELEASES: tuple[Release, ...] = ("scored", "shadow", "cleared")
_KEYS = ("guard", "release", "stage", "prefixes", "trust_regions", "probe")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a guarded vLLM.

    Attributes:
        guard: folder of the guard's bundle.
        release: `scored` hands scores along for a gateway that decides. `shadow` does so too, but lets tokens
            without scores pass. `cleared` decides here, by one stage.
        stage: 1 if the probe of a guard with two stages shall decide alone; otherwise None.
        prefixes: what the model's template writes before any text, in tokens. It is not scored.
        probe: SHA-256 of the probe's file; None takes any. A compiled model needs it, because vLLM finds
            compiled graphs again by its settings, and a graph belongs to the layers that a probe reads.
        trust_regions: whether requests may say where their regions begin. With a gateway they always may.
    """

    guard: Path
    release: Release
    stage: int | None = None
    prefixes: tuple[tuple[int, ...], ...] = ()
    trust_regions: bool = False
    probe: str | None = None

    @classmethod
    def read(cls, additional_config: object) -> "Settings":
        """Read the settings from vLLM's `additional_config`.

        Raises:
            ConfigError: they are missing or malformed. The message names the key.
        """
        found = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
        if not isinstance(found, Mapping):
            raise ConfigError(
                f'additional_config: expected {{"{KEY}": {{"guard": FOLDER, "release": "scored", '
                '"shadow" or "cleared"}}; lockgate.vllm.command_line writes the whole command'
            )
        if unknown := sorted(set(found) - set(_KEYS)):
            raise ConfigError(
                f"additional_config.{KEY}: unknown keys {', '.join(unknown)}; known are {', '.join(_KEYS)}"
            )
        guard, release = found.get("guard"), found.get("release")
        stage, prefixes = found.get("stage"), found.get("prefixes", [])
        if not isinstance(guard, str) or not guard:
            raise ConfigError(f"additional_config.{KEY}.guard: expected the folder of a guard")
        if release not in _RELEASES:
            raise ConfigError(f"additional_config.{KEY}.release: expected {', '.join(_RELEASES)}")
        if stage not in (None, 1):
            raise ConfigError(f"additional_config.{KEY}.stage: expected 1, or leave it out")
        if not isinstance(prefixes, list) or not all(map(_is_ids, prefixes)):
            raise ConfigError(f"additional_config.{KEY}.prefixes: expected lists of token ids")
        if not isinstance(trust := found.get("trust_regions", False), bool):
            raise ConfigError(f"additional_config.{KEY}.trust_regions: expected true or false")
        if not isinstance(probe := found.get("probe"), str | None):
            raise ConfigError(f"additional_config.{KEY}.probe: expected a SHA-256, or leave it out")
        return cls(Path(guard), release, stage, tuple(map(tuple, prefixes)), trust, probe)

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `read` reads, as JSON allows."""
        made: dict[str, Any] = {"guard": str(self.guard), "release": self.release}
        if self.stage is not None:
            made["stage"] = self.stage
        if self.prefixes:
            made["prefixes"] = list(map(list, self.prefixes))
        if self.trust_regions:
            made["trust_regions"] = True
        if self.probe is not None:
            made["probe"] = self.probe
        return made


@dataclass(frozen=True, slots=True)
class Probe:
    """The part of a guard that runs inside vLLM.

    Attributes:
        head: the probe.
        record: the guard's record.
        thresholds: when a stream flags; None if a gateway decides.
    """

    head: ProbeHead
    record: GuardRecord
    thresholds: Thresholds | None

    @property
    def outputs(self) -> int:
        """Columns of a row."""
        return self.head.n_outputs

    def state(self, regions: Regions) -> StreamState | None:
        """Return the state of a new stream; None if a gateway decides."""
        if self.thresholds is None:
            return None
        return StreamState(self.thresholds, self.head.gamma, regions, self.head.category_ids)


def read_probe(settings: Settings) -> Probe:
    """Read the guard.

    Raises:
        GuardError: the bundle is unreadable, its probe is another one, or does not read block outputs.
        ConfigError: the guard has two stages, and bare vLLM was not told that one shall decide alone.
    """
    path = bundle_folder(settings.guard)
    bundle = read_bundle(path)
    if bundle.head.site != "residual":
        raise GuardError(
            f"{path}: the probe reads the site '{bundle.head.site}'; inside vLLM only block outputs "
            "('residual') can be read; serve this guard with Lockgate's own engine"
        )
    if settings.probe not in (None, bundle.record.probe_sha256):
        raise GuardError(f"{path}: its probe is not the one that vLLM was started with; start vLLM anew")
    thresholds = None
    if settings.release == "cleared":
        if bundle.record.stages == 2 and settings.stage != 1:
            raise ConfigError(
                f"{path}: the guard has two stages, and bare vLLM can run the first alone. Serve it with "
                "`lockgate serve --engine vllm`, or set stage = 1: then the probe's own threshold decides, "
                "and the guard's calibration does not cover it"
            )
        thresholds = bundle.record.thresholds.to_thresholds()
    return Probe(bundle.head, bundle.record, thresholds)


def read_regions(found: object, prompt: int) -> Regions:
    """Read the regions of a request from its `extra_args`.

    Args:
        found: a mapping with `start`, `prompt_start` and `answer_start`, counted in tokens.
        prompt: number of prompt tokens.

    Raises:
        ConfigError: the regions are malformed.
    """
    names = ("start", "prompt_start", "answer_start")
    values: list[int] = []
    if isinstance(found, Mapping) and set(found) == set(names):
        values = [found[name] for name in names]
    if len(values) != len(names) or not all(map(_is_count, values)):
        raise ConfigError(f"extra_args.{KEY}: expected token positions {', '.join(names)}")
    start, prompt_start, answer_start = values
    if not start <= prompt_start <= answer_start == prompt:
        raise ConfigError(
            f"extra_args.{KEY}: expected start <= prompt_start <= answer_start = the prompt's length"
        )
    return Regions(start, prompt_start, answer_start)


def plain_regions(prompt: Sequence[int], prefixes: Sequence[Sequence[int]]) -> Regions:
    """Return the regions of a request that names none: only the answer may flag.

    Everything behind the longest prefix that the prompt begins with is scored.
    """
    lengths = [len(prefix) for prefix in prefixes if list(prompt[: len(prefix)]) == list(prefix)]
    return Regions(max(lengths, default=0), len(prompt), len(prompt))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))
