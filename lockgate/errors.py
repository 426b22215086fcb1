"""The error tree. Every message says what was found, what was expected and what to do next.

LockgateError
├── ConfigError            a configuration or command-line value
├── ConstitutionError      a constitution file
├── ExchangeError          an exchange record or a data file
├── BackboneError          weights, tokenizer or chat template
│   └── ContextOverflow    more tokens than the backbone can read
├── PoolFull               no key-value memory left for another session
├── GuardError             a guard bundle
│   └── BackboneMismatch   a bundle made for another backbone
├── TrainingError          data that cannot train a probe
├── CalibrationError       a budget that the sample cannot carry
├── SynthesisError         a run that makes data and cannot go on; what is done is kept
│   ├── GeneratorError     a generator that cannot answer: address, key, model, or it is down
│   └── BudgetExhausted    the tokens or the money a run may use are used up
└── MissingExtra           an optional dependency that is not installed
"""


class LockgateError(Exception):
    """Root of all errors that Lockgate raises on purpose."""


class ConfigError(LockgateError):
    """A configuration or command-line value is not usable."""


class ConstitutionError(LockgateError):
    """A constitution file does not follow the schema or fails its checks."""


class ExchangeError(LockgateError):
    """An exchange record, or the file that holds it, is malformed."""


class BackboneError(LockgateError):
    """A backbone's weights, tokenizer or template are missing or unsupported."""


class ContextOverflow(BackboneError):
    """A request holds more tokens than the backbone's context."""


class PoolFull(LockgateError):
    """The key-value budget is used up; the caller waits or turns work away."""


class GuardError(LockgateError):
    """A guard bundle is incomplete, damaged or of an unknown version."""


class BackboneMismatch(GuardError):
    """A guard was made for a backbone other than the one at hand."""


class TrainingError(LockgateError):
    """The data given cannot train what was asked for."""


class CalibrationError(LockgateError):
    """The sample cannot carry the refusal budget that was asked for."""


class SynthesisError(LockgateError):
    """A run that makes data cannot go on. Finished work is kept; the same command continues it."""


class GeneratorError(SynthesisError):
    """A generator cannot answer any request: its address, key or model is wrong, or it is down."""


class BudgetExhausted(SynthesisError):
    """The tokens or the money that a run may use are used up."""


class MissingExtra(LockgateError):
    """An optional dependency is missing; the message names the extra."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional dependency: pip install "lockgate[{extra}]"')
