"""The training plan: how a build trains and calibrates a guard."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from lockgate.backbones import Placement
from lockgate.classifiers.text import TextBaselineConfig
from lockgate.errors import ConfigError
from lockgate.feedback import FeedbackRule
from lockgate.traffic import MiningPlan
from lockgate.training import ClassifierConfig, ProbeConfig

ReadingDtype = Literal["auto", "float32", "bfloat16"]
# The band of layers that ranked best on the embedded backbone (LOG.md): 12 to 26 of 30.
_BAND = (0.4, 0.9)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Settings of training and calibration. With the rows and the backbone they decide the guard.

    Attributes:
        layers: 0-based layers that the probe reads; None takes a band of middle layers.
        epochs, learning_rate, weight_decay, seed: settings of the fit.
        folds: folds of the cross-validation that chooses the fit's settings and tries a text voice. 0 takes
            the settings as they are, and no voice.
        choose_below: training rows up to which the settings are chosen. More rows need no choice, and each
            candidate costs a fit.
        decays: weight decays to try beside the standard one.
        voice_weights: shares of the probe to try in a mixture with the text voice.
        escalations: shares of the traffic that the text voice may be asked about, to try.
        delay: answer tokens that a suspicious stream keeps back, in a guard with a text voice; see `Cascade`.
            None takes the delay of the guard to replace, or none.
        max_tokens: longest training exchange. A longer one keeps the template's prefix and its last tokens.
        max_rows: most training rows. Rows of the user's labelled files are dropped first.
        least_rows: fewest rows of each label. With fewer nothing is trained.
        benign_share: share of the traffic's prompts that are used for training. The others calibrate.
        max_benign: largest number of the traffic's prompts that are used for training.
        reading: precision in which training reads; `auto` is bfloat16 where the processor computes in it.
        budget: the wished refusal budget.
        provisional_fpr: share of held-out harmless rows above the threshold of a guard without traffic.
        mine_top: share of a pool's harmless exchanges that are mined to train a second stage.
        classifier: settings of this second stage.
        feedback: how reviews enter the training rows.
        baseline: settings of the text baseline, which the report compares with the probe.
    """

    layers: tuple[int, ...] | None = None
    epochs: int = 20
    learning_rate: float = 3e-4
    weight_decay: float = 1.0
    seed: int = 0
    folds: int = 0
    choose_below: int = 6000
    decays: tuple[float, ...] = (30.0, 100.0, 300.0)
    voice_weights: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    escalations: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5)
    delay: int | None = None
    max_tokens: int = 384
    max_rows: int = 4500
    least_rows: int = 30
    benign_share: float = 0.2
    max_benign: int = 1000
    reading: ReadingDtype = "auto"
    budget: float = 0.0005
    provisional_fpr: float = 0.01
    mine_top: float = 0.05
    feedback: FeedbackRule = FeedbackRule()  # noqa: RUF009 - frozen
    classifier: ClassifierConfig = ClassifierConfig(max_tokens=384)  # noqa: RUF009 - frozen
    baseline: TextBaselineConfig = TextBaselineConfig(  # noqa: RUF009 - frozen
        cs=(3.0, 30.0), folds=3, excerpt=400
    )

    def __post_init__(self) -> None:
        """Check the values. Raises ConfigError for a value outside its range."""
        for name in ("budget", "provisional_fpr"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a share between 0 and 1")
        if not 0 <= self.benign_share < 1:
            raise ConfigError("benign_share: expected a share from 0 to less than 1")
        for name in ("epochs", "max_tokens", "max_rows", "least_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1")
        if self.folds < 0 or self.folds == 1:
            raise ConfigError("folds: expected 0, or at least 2")
        for name in ("voice_weights", "escalations"):
            if not getattr(self, name) or not all(0 < share < 1 for share in getattr(self, name)):
                raise ConfigError(f"{name}: expected shares between 0 and 1")
        if self.delay is not None and self.delay < 0:
            raise ConfigError("delay: expected a number of tokens from 0")
        if not 0 < self.mine_top <= 1:
            raise ConfigError("mine_top: expected a share above 0 and at most 1")
        if self.reading not in ("auto", "float32", "bfloat16"):
            raise ConfigError("reading: expected auto, float32 or bfloat16")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:  # noqa: ANN401 - any of the attributes
        """Return the plan with this name. `small` takes less than an hour on two cores, `large` a night.

        Raises:
            ConfigError: No preset has this name, or a value is outside its range.
        """
        if name not in _PRESETS:
            raise ConfigError(f"preset: expected one of {', '.join(_PRESETS)}")
        return cls(**{**_PRESETS[name], **changes})

    def probe(self, n_layers: int) -> ProbeConfig:
        """Return the probe's settings for a backbone. Raises ConfigError for layers that it lacks."""
        first, end = int(_BAND[0] * n_layers), max(int(_BAND[0] * n_layers) + 1, round(_BAND[1] * n_layers))
        layers = tuple(range(first, end)) if self.layers is None else self.layers
        if not layers or min(layers) < 0 or max(layers) >= n_layers:
            raise ConfigError(f"layers: the backbone has layers 0 to {n_layers - 1}")
        return ProbeConfig(
            name="probe",
            layers=layers,
            epochs=self.epochs,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )

    def candidates(self, n_layers: int) -> tuple[ProbeConfig, ...]:
        """Return the settings to choose from, the standard ones first.

        They differ in weight decay and in layers: the whole band, its lower and its upper half. Weights of a
        small set need more decay than the standard, which hardly shrinks them in so few steps.
        """
        standard = self.probe(n_layers)
        bands = [standard.layers]
        if self.layers is None and len(standard.layers) > 1:
            half = len(standard.layers) // 2
            bands += [standard.layers[:half], standard.layers[half:]]
        found = [
            replace(standard, layers=layers, weight_decay=decay, name=_name(layers, decay))
            for layers in bands
            for decay in dict.fromkeys((self.weight_decay, *self.decays))
        ]
        return tuple(found)

    def mining(self, held_out: tuple[Path, ...] = (), workers: int = 1) -> MiningPlan:
        """Return the settings of mining. Exchanges without a label count as harmless, as in traffic."""
        return MiningPlan(
            top=self.mine_top,
            held_out=held_out,
            drop_overlap=bool(held_out),
            unlabelled_as=0,
            workers=workers,
        )

    def reading_dtype(self, placement: Placement) -> str:
        """Return the precision of reading: the value of `reading`, with `auto` decided for a backbone."""
        if self.reading != "auto":
            return self.reading
        if (placement.kind, placement.dtype) != ("cpu", "float32"):
            return placement.dtype
        return "bfloat16" if _computes_in_bfloat16() else "float32"


def _name(layers: tuple[int, ...], decay: float) -> str:
    return f"layers {layers[0]} to {layers[-1]}, weight decay {decay:g}"


def _computes_in_bfloat16() -> bool:
    """Tell whether the processor has bfloat16 instructions. Without them it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


_PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "large": {"max_tokens": 1024, "max_rows": 60_000, "max_benign": 10_000, "classifier": ClassifierConfig()},
}
