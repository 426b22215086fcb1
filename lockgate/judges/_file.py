"""`judge.yaml`: the settings of a judge. Unknown keys are errors, and no key holds a secret."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lockgate.errors import JudgeError

LAYOUTS = ("llama-guard", "qwen3guard", "shieldgemma", "granite-guardian")
_CHOICES = ("Template", "literal[")
_PLACES = re.compile(r"\{(conversation|prompt|answer)\}")
# What decides no verdict: where a judge is, what it costs, and how it is asked.
_NEUTRAL = {
    *("format", "name", "path", "backbone", "device", "policy", "price", "api_key_env", "timeout_s"),
    *("retries", "concurrency", "trust_env", "batch_tokens"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Strict):
    """What an endpoint or machine takes for a million tokens, in any one currency."""

    prompt: float = Field(ge=0)
    completion: float = Field(default=0.0, ge=0)
    currency: str = "USD"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of these tokens."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class PolicyName(_Strict):
    """The policy that a judge was made for: name and version of a constitution."""

    name: str
    version: str | int | float


class Template(_Strict):
    """A verdict template of the user's own.

    Attributes:
        prompt: text that asks for the verdict. `{conversation}` stands for all turns with their roles,
            `{prompt}` for the last user message and `{answer}` for the assistant's text.
        harmful, harmless: words with which the answer may begin. A blank before them makes no difference.
    """

    prompt: str
    harmful: tuple[str, ...] = Field(min_length=1)
    harmless: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        found = set(_PLACES.findall(self.prompt))
        if not found & {"conversation", "answer"}:
            raise ValueError("prompt: expected {conversation} or {answer} in it")
        check_words(self.harmful, self.harmless)
        return self


def check_words(harmful: tuple[str, ...], harmless: tuple[str, ...]) -> None:
    """Check verdict words. Raises ValueError if one is empty or on both sides."""
    sides = [{word.strip().casefold() for word in side} for side in (harmful, harmless)]
    if "" in sides[0] | sides[1]:
        raise ValueError("a verdict word is empty")
    if both := sides[0] & sides[1]:
        raise ValueError(f"the word {sorted(both)[0]} stands for harmful and for harmless")


class _Judge(_Strict):
    """The keys of every judge.

    Attributes:
        name: name in reports; by default the folder's or the model's.
        policy: the policy that the judge was made for. A guard with another one refuses it.
        price: what its tokens cost, for reports.
    """

    format: Literal[1] = 1
    name: str = ""
    policy: PolicyName | None = None
    price: Price | None = None

    @property
    def shown(self) -> str:
        """The judge's name in reports and errors."""
        raise NotImplementedError

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide a verdict."""
        return self.model_dump(mode="json", exclude=_NEUTRAL)


class _Local(_Judge):
    path: str
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_tokens: int | None = Field(default=None, ge=16)
    batch_tokens: int = Field(default=8192, ge=1)

    @property
    def shown(self) -> str:
        return self.name or Path(self.path).name


class SequenceFile(_Local):
    """A local sequence classifier (`AutoModelForSequenceClassification`).

    Attributes:
        harmful: labels that mean harmful; by default the labels with such a name.
        reads: `exchange` gives it all turns with their roles, `answer` the assistant's text alone.
        max_tokens: longest text; longer ones are read in windows, and the most harmful one counts.
        batch_tokens: tokens of a batch, with padding.
    """

    kind: Literal["sequence-classifier"] = "sequence-classifier"
    harmful: tuple[str, ...] = ()
    reads: Literal["exchange", "answer"] = "exchange"


class GuardModelFile(_Local):
    """A local guard model that answers with a word (`AutoModelForCausalLM`).

    Attributes:
        template: one of `LAYOUTS`, or a template of the user's own.
        arguments: arguments of the folder's chat template, such as `guideline` or `guardian_config`.
        lead: what the answer begins with before the verdict word; None takes the layout's.
        harmful, harmless: verdict words in place of the layout's.
        max_tokens: longest reading. Oldest turns are left out of a longer one.
    """

    kind: Literal["guard-model"] = "guard-model"
    template: Literal["llama-guard", "qwen3guard", "shieldgemma", "granite-guardian"] | Template
    arguments: dict[str, Any] = Field(default_factory=dict)
    lead: str | None = None
    harmful: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.template, Template) and (self.harmful or self.harmless or self.arguments):
            raise ValueError("harmful, harmless, arguments: give words in the template itself, or a layout")
        check_words(self.harmful, self.harmless)
        return self


class ClassifierFile(_Local):
    """An exchange classifier made by `lockgate train classifier`, on a backbone that need not be the guard's.

    Attributes:
        path: the classifier's folder.
        backbone: the folder of its backbone, or `embedded`.
    """

    kind: Literal["classifier"] = "classifier"
    backbone: str = "embedded"


class TokenIds(_Strict):
    """The tokens of the verdict words, for endpoints that give no alternatives to the chosen token."""

    harmful: tuple[int, ...] = Field(min_length=1)
    harmless: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(*self.harmful, *self.harmless) < 0 or set(self.harmful) & set(self.harmless):
            raise ValueError("expected ids from 0 on, none of them for both sides")
        return self


class EndpointFile(_Judge):
    """A model behind an OpenAI-compatible endpoint, asked for the log-probabilities of verdict words.

    Attributes:
        url: address up to and including `/v1`.
        model: the model's name at the endpoint.
        template: the question and its words, or one of `LAYOUTS` for a guard model behind the endpoint. Such
            a model gets the conversation as messages, because its own chat template asks.
        answer_tokens: tokens of the answer to look for the verdict word in. By default 1, or 8 with a layout,
            since some guard models write something before it.
        top_logprobs: alternatives to ask for. 0: the endpoint gives none, and the probability of the chosen
            token decides alone.
        token_ids: tokens of the verdict words, in place of alternatives. Then each verdict takes two
            requests, with a `logit_bias` that leaves the words of one side only. The endpoint must give
            log-probabilities as they are without the bias, as `lockgate serve` does.
        api_key_env: name of the environment variable with the key. The key itself is never stored.
        extra_body: further fields of each request.
        timeout_s: seconds for a verdict with all its attempts. A later one is a missing one.
        retries: further attempts after a broken connection, 408, 409, 425, 429 or 5xx.
        concurrency: requests in flight at once.
        trust_env: whether to use the proxy settings of the environment.
    """

    kind: Literal["endpoint"] = "endpoint"
    url: str = Field(pattern=r"^https?://[^\s?#@]+$")
    model: str = Field(min_length=1)
    template: Literal["llama-guard", "qwen3guard", "shieldgemma", "granite-guardian"] | Template
    answer_tokens: int | None = Field(default=None, ge=1, le=64)
    top_logprobs: int = Field(default=20, ge=0, le=100)
    token_ids: TokenIds | None = None
    api_key_env: str | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)
    timeout_s: float = Field(default=20.0, gt=0, le=600)
    retries: int = Field(default=2, ge=0, le=10)
    concurrency: int = Field(default=8, ge=1, le=256)
    trust_env: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        fixed = {"model", "messages", "stream", "n", "max_tokens", "temperature", "logprobs", "top_logprobs"}
        if self.token_ids is not None:
            fixed.add("logit_bias")
            if self.tokens > 1 or not isinstance(self.template, Template):
                raise ValueError("token_ids: expected a template of your own, and answer_tokens of 1")
        if taken := sorted(fixed & {*self.extra_body}):
            raise ValueError(f"extra_body may not set {', '.join(taken)}")
        try:
            urlsplit(self.url).port  # noqa: B018 - the port is checked when it is read
        except ValueError:
            raise ValueError("url: the port is no number up to 65535") from None
        return self

    @property
    def shown(self) -> str:
        return self.name or self.model

    @property
    def tokens(self) -> int:
        """Tokens of the answer to look for the verdict word in."""
        return self.answer_tokens or (1 if isinstance(self.template, Template) else 8)

    def deciding(self) -> dict[str, Any]:
        return {**super().deciding(), "url": self.url.rstrip("/")}


JudgeFile = SequenceFile | GuardModelFile | ClassifierFile | EndpointFile
_ANY: TypeAdapter[JudgeFile] = TypeAdapter(
    Annotated[SequenceFile | GuardModelFile | ClassifierFile | EndpointFile, Field(discriminator="kind")]
)


def parse_judge_file(content: object, where: str) -> JudgeFile:
    """Check decoded YAML.

    Raises:
        JudgeError: a key is unknown, missing or has a wrong value. The message names `where` and the key.
    """
    if not isinstance(content, dict):
        raise JudgeError(f"{where}: expected the keys of a judge, such as kind and path")
    try:
        return _ANY.validate_python(content)
    except ValidationError as error:
        # A template is a name or a mapping. Only the errors of what was given are of use.
        other = "Template" if isinstance(content.get("template"), str) else "literal["
        listed = error.errors(include_input=False, include_url=False)
        own = [found for found in listed if not any(str(part).startswith(other) for part in found["loc"])]
        first = (own or listed)[0]
        key = ".".join(part for part in map(str, first["loc"][1:]) if not part.startswith(_CHOICES)) or "kind"
        if first["type"] == "union_tag_invalid" or first["type"] == "union_tag_not_found":
            raise JudgeError(
                f"{where}: kind: expected sequence-classifier, guard-model, classifier or endpoint"
            ) from None
        raise JudgeError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}") from None


def read_judge_file(path: Path) -> JudgeFile:
    """Read a judge's settings. Relative folders are taken from the file's own folder.

    Raises:
        JudgeError: the file can't be read, or is no judge.
    """
    try:
        content = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise JudgeError(f"{path}: not readable as YAML ({type(error).__name__})") from None
    found = parse_judge_file(content, str(path))
    if isinstance(found, EndpointFile):
        return found
    base = path.absolute().parent
    changed = {"path": str(base / found.path)}
    if isinstance(found, ClassifierFile) and found.backbone != "embedded":
        changed["backbone"] = str(base / found.backbone)
    return found.model_copy(update=changed)


def write_judge_file(file: JudgeFile) -> bytes:
    """Return the YAML that `read_judge_file` reads."""
    content = file.model_dump(mode="json", exclude_defaults=True)
    content = {"format": file.format, "kind": file.kind, **content}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()
