"""All errors. Every message says what was found, what was expected and what to do next.

LockgateError
├── ConfigError            a configuration or command-line value
├── ConstitutionError      a constitution file
├── ExchangeError          an exchange record or a data file
├── BackboneError          weights, tokenizer or chat template
│   └── ContextOverflow    more tokens than the backbone can read
├── PoolFull               no key-value memory is left for another session
├── GuardError             a guard bundle
│   └── BackboneMismatch   a bundle made for another backbone
├── JudgeError             a judge: its file, its folder, its endpoint, or a verdict that it does not give
├── TrainingError          data that cannot train a probe or a classifier
├── CalibrationError       a sample that cannot support the refusal budget
├── SynthesisError         a run that makes data and cannot continue; finished work is kept
│   ├── GeneratorError     a generator that cannot answer: wrong address, key or model, or it is down
│   └── BudgetExhausted    no tokens or money are left for the run
├── DecisionLogError       a decision log that can't be opened, written or read
├── OperationsError        an operations database (tenants and keys) that can't be opened, written or read
├── ReviewError            reviews that can't be opened, written or read, or a review that is not valid
└── MissingExtra           an optional dependency that is not installed
"""


class PrecisionWarning(UserWarning):
    """A guard computes in another precision, or on another kind of device, than when its threshold was set.

    It is a warning and no error: `lockgate calibrate --transfer` measures what the change does.
    """


class LockgateError(Exception):
    """Base class of all errors that Lockgate raises on purpose."""


class ConfigError(LockgateError):
    """A configuration or command-line value is not usable."""


class ConstitutionError(LockgateError):
    """A constitution file does not follow the schema or fails its checks."""


class ExchangeError(LockgateError):
    """An exchange record, a scores table or another data file is malformed."""


class BackboneError(LockgateError):
    """A backbone's weights, tokenizer or template are missing or unsupported."""


class ContextOverflow(BackboneError):
    """A request holds more tokens than the backbone's context."""


class PoolFull(LockgateError):
    """The key-value budget is used up. The caller has to wait or refuse work."""


class GuardError(LockgateError):
    """A guard bundle is incomplete, damaged or of an unknown version."""


class BackboneMismatch(GuardError):
    """A guard was made for another backbone."""


class JudgeError(LockgateError):
    """A judge cannot be used, or gives no verdict."""


class TrainingError(LockgateError):
    """The data cannot train the probe or classifier."""


class CalibrationError(LockgateError):
    """The sample cannot support the refusal budget, for example because it is too small."""


class SynthesisError(LockgateError):
    """A run that makes data cannot continue. Finished work is kept; the same command resumes the run."""


class GeneratorError(SynthesisError):
    """A generator cannot answer any request: its address, key or model is wrong, or it is down."""


class BudgetExhausted(SynthesisError):
    """A run has used all of its tokens or money."""


class DecisionLogError(LockgateError):
    """A decision log can't be opened, written or read, or records of it are lost."""


class BackupError(LockgateError):
    """A database can't be copied, or the copy is damaged."""


class OperationsError(LockgateError):
    """An operations database, which holds tenants and keys, can't be opened, written or read."""


class ReviewError(LockgateError):
    """Reviews can't be opened, written or read, or a review is not valid."""


class RedTeamError(LockgateError):
    """A campaign, a set of queries, an attack or a file of results is not valid."""


class MissingExtra(LockgateError):
    """An optional dependency is not installed. The message names the extra to install."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional dependency: pip install "lockgate[{extra}]"')
