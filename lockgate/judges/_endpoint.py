"""A judge behind an OpenAI-compatible endpoint, read from the log-probabilities of verdict words."""

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lockgate._extras import need
from lockgate.durable import hash_json
from lockgate.errors import JudgeError
from lockgate.exchanges import PromptPrints
from lockgate.judges._file import EndpointFile, Template
from lockgate.judges._judge import SAMPLE, JudgeReading, Talk
from lockgate.judges._layouts import LAYOUTS, Layout
from lockgate.judges._logprobs import NoVerdict, Reply, read_forced, read_reply
from lockgate.judges._status import Retry, read_status
from lockgate.judges._text import fill, turns_of

if TYPE_CHECKING:
    import httpx2

_MAX_BODY_BYTES = 2**20
_BACKOFF_S = 0.25
# OpenAI's largest. It leaves no other token a chance.
_BIAS = 100


class EndpointJudge:
    """A judge behind an endpoint. It sends several requests at once, and some again if they fail.

    A verdict has `timeout_s` with all its attempts. What comes later is no verdict.

    Args:
        file: the settings.

    Raises:
        MissingExtra: the HTTP client is not installed (extra `judge`).
        JudgeError: the key's variable is not set.
    """

    training_prompts: PromptPrints | None = None

    def __init__(self, file: EndpointFile) -> None:
        self.file = file
        self._http = need("httpx2", extra="judge", feature="a judge behind an endpoint")
        self._headers = _headers(file)
        self._words = file.template if isinstance(file.template, Template) else LAYOUTS[file.template]
        self._url = f"{file.url.rstrip('/')}/chat/completions"
        self._client: httpx2.Client | None = None
        self._threads: ThreadPoolExecutor | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of the address, the model, the template and the fields of each request."""
        layout = [asdict(self._words)] if isinstance(self._words, Layout) else []
        return hash_json([self.file.deciding(), *layout])

    @property
    def where(self) -> str:
        """The endpoint's name in messages."""
        return f"{self.file.shown} at {self.file.url}"

    def judge(self, talks: Sequence[Talk]) -> list[JudgeReading]:
        """See `Judge.judge`."""
        try:
            client = self._connect()
        except NoVerdict as error:
            return [JudgeReading(float("nan"), str(error)) for _ in talks]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.file.concurrency, "lockgate-judge")
        return list(self._threads.map(lambda talk: self._judge(client, talk), talks))

    def _judge(self, client: "httpx2.Client", talk: Talk) -> JudgeReading:
        started = time.monotonic()
        try:
            reply = self._ask(client, talk, started + self.file.timeout_s)
        except NoVerdict as error:
            return JudgeReading(float("nan"), str(error), time.monotonic() - started)
        seconds = time.monotonic() - started
        if seconds > self.file.timeout_s:
            return JudgeReading(float("nan"), self._late, seconds)
        return JudgeReading(reply.logit, None, seconds, reply.prompt_tokens, reply.completion_tokens)

    @property
    def _late(self) -> str:
        return f"the endpoint gave no answer in {self.file.timeout_s:g} s (timeout_s)"

    def _ask(self, client: "httpx2.Client", talk: Talk, deadline: float) -> Reply:
        """Send what a verdict takes: one request, or one for the words of each side. Raises NoVerdict."""
        content, ids = self._content(talk), self.file.token_ids
        if ids is None:
            return read_reply(self._post(client, content, deadline), self._words)
        bodies = []
        for side in (ids.harmful, ids.harmless):
            biased = {**content, "logit_bias": {str(token): _BIAS for token in side}}
            bodies.append(self._post(client, biased, deadline))
        return read_forced(*bodies)

    def _post(self, client: "httpx2.Client", content: Mapping[str, Any], deadline: float) -> bytes:
        """Send a request, and again after faults that may pass. Raises NoVerdict."""
        for attempt in range(self.file.retries + 1):
            result = self._send(client, content, deadline)
            if not isinstance(result, Retry):
                return result
            wait = _BACKOFF_S * 2**attempt if result.wait is None else result.wait
            if attempt == self.file.retries:
                raise NoVerdict(f"{result.reason}, in {attempt + 1} attempts")
            if time.monotonic() + wait >= deadline:
                raise NoVerdict(f"{result.reason}; {self._late}")
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _content(self, talk: Talk) -> dict[str, Any]:
        file = self.file
        more = {"top_logprobs": file.top_logprobs} if file.top_logprobs and file.token_ids is None else {}
        return {
            **file.extra_body,
            "model": file.model,
            "messages": self._messages(talk),
            "max_tokens": file.tokens,
            "temperature": 0,
            "logprobs": True,
            **more,
        }

    def _messages(self, talk: Talk) -> list[dict[str, str]]:
        """Return the question, or the conversation itself for a model whose own template asks."""
        template = self.file.template
        if isinstance(template, Template):
            return [{"role": "user", "content": fill(template.prompt, talk)}]
        turns = turns_of(talk)
        if not turns:
            raise NoVerdict("there is no text to judge")
        return [{"role": role, "content": text} for role, text in turns]

    def _send(self, client: "httpx2.Client", content: Mapping[str, Any], deadline: float) -> bytes | Retry:
        """Make one attempt. Return the body of a success, or why another attempt may help.

        Raises:
            NoVerdict: another attempt would not help.
        """
        http = self._http
        left = max(0.001, deadline - time.monotonic())
        try:
            with client.stream("POST", self._url, json=content, timeout=left) as response:
                body = self._read(response, deadline)
                return read_status(response.status_code, response.headers, body, self.file)
        except http.TimeoutException:
            raise NoVerdict(self._late) from None
        except http.InvalidURL:
            raise NoVerdict("url: not a valid address; expected http(s)://HOST[:PORT]/v1") from None
        except http.DecodingError:
            raise NoVerdict("the reply's compression is damaged") from None
        except http.TransportError as error:
            return Retry(f"no connection ({type(error).__name__})")

    def _read(self, response: "httpx2.Response", deadline: float) -> bytes:
        """Read the body. A server that sends slowly for ever is late, and a huge body is no verdict."""
        pieces, size = [], 0
        for piece in response.iter_bytes():
            size += len(piece)
            if size > _MAX_BODY_BYTES:
                raise NoVerdict(f"the reply is longer than {_MAX_BODY_BYTES >> 20} MiB")
            if time.monotonic() > deadline:
                raise NoVerdict(self._late)
            pieces.append(piece)
        return b"".join(pieces)

    def _connect(self) -> "httpx2.Client":
        if self._client is None:
            http, file = self._http, self.file
            try:
                self._client = http.Client(
                    headers=self._headers,
                    limits=http.Limits(max_connections=file.concurrency),
                    trust_env=file.trust_env,
                    follow_redirects=False,
                )
            except (ImportError, ValueError, http.InvalidURL) as error:
                raise NoVerdict(
                    f"the environment names a proxy that can't be used ({type(error).__name__}); set "
                    "trust_env: false, or correct HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
                ) from None
        return self._client

    def check(self) -> None:
        """See `Judge.check`."""
        reading = self.judge([SAMPLE])[0]
        if not reading.given:
            raise JudgeError(f"judge {self.where}: {reading.error or 'the logit is no finite number'}")

    def close(self) -> None:
        """Close the connections. A request that hangs is left alone until its time-out."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        if self._client is not None:
            self._client.close()
            self._client = None


def _headers(file: EndpointFile) -> dict[str, str]:
    """Return the headers with the key.

    Raises:
        JudgeError: the key's variable is not set, or holds characters that no header can carry.
    """
    if file.api_key_env is None:
        return {}
    key = os.environ.get(file.api_key_env, "").strip()
    if not key:
        raise JudgeError(
            f"api_key_env: the environment variable {file.api_key_env} is not set; put the endpoint's key "
            "there"
        )
    if not key.isascii() or not key.isprintable():
        raise JudgeError(
            f"api_key_env: the value of {file.api_key_env} holds characters that no key has; set it again"
        )
    return {"Authorization": f"Bearer {key}"}
