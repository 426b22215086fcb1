"""The gateway object: backbone, guard and engine together, and the limits of a request."""

import copy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from lockgate.backbones import Backbone, RenderedChat, front
from lockgate.decisions import DecisionLog, GuardChange, Left
from lockgate.errors import ConfigError
from lockgate.exchanges import Message
from lockgate.gateway._admission import most_tokens
from lockgate.gateway._bodies import BodyRoom, decode_body
from lockgate.gateway._clients import Client, caller_of
from lockgate.gateway._engine import Engine
from lockgate.gateway._errors import ApiError, invalid
from lockgate.gateway._events import Event
from lockgate.gateway._gateway_options import GatewayOptions
from lockgate.gateway._guarding import describe_guard, promote, scoring_of
from lockgate.gateway._guards import DEFAULT, Guards, engine_problems
from lockgate.gateway._intake import Intake
from lockgate.gateway._jobs import Job
from lockgate.gateway._keyring import Keyring
from lockgate.gateway._lengths import count_tokens, render_prompt, too_long, too_long_to_read
from lockgate.gateway._metrics import Metrics
from lockgate.gateway._options import NO_HOLD, Hold
from lockgate.gateway._policies import Policies, Policy, policy_of
from lockgate.gateway._requests import ChatRequest, parse_chat_request
from lockgate.gateway._sampling import SamplingParams
from lockgate.gateway._scoring import Scoring
from lockgate.gateway._stepper import MakeStepper
from lockgate.gateway._tenancy import Tenancy
from lockgate.gateway._tracing import traced
from lockgate.gateway._wire import completion_id
from lockgate.gateway.telemetry import Telemetry
from lockgate.guards import Guard, regions_of

T = TypeVar("T")

# Room for a tokenizer that needs more tokens than the one that the answer's limit was counted with.
SPARE_TOKENS = 256
NOBODY = Client()


class Gateway:
    """The backbone, guard, engine and decision log that all HTTP routes share.

    A server with several guards has a gateway for each. They share all but the guard and its engine.

    Args:
        scoring: the guard; None in mode `off`.
        about_guard: description of the guard for `/v1/models`.
        make_stepper: makes what runs the model, if it is not to run in this process.
        reads_only: whether all answers are written elsewhere. Then the layers above the last one that the
            probe reads are left out.

    Attributes:
        whole: the backbone with all its layers, for which guards are made.
        guards: the gateways of all guards. The first one starts and closes them.
        guard_name: the guard's name among them.
    """

    def __init__(
        self,
        backbone: Backbone,
        scoring: Scoring | None,
        options: GatewayOptions,
        about_guard: dict[str, Any] | None = None,
        make_stepper: MakeStepper | None = None,
        *,
        reads_only: bool = False,
    ) -> None:
        whole = backbone
        if reads_only and scoring is not None:
            backbone = front(backbone, 1 + max(scoring.stages.head.layers))
        self.backbone = backbone
        self.whole = whole
        self.options = options
        self.about_guard = about_guard
        self.guard_folder: Path | None = None  # where its bundle was read from
        self.guard_name = DEFAULT
        self.guards: Guards[Gateway] = Guards(self)
        self._runs_here, self._reads_only = make_stepper is None, reads_only
        self.model_id = backbone.name
        self.created = int(time.time())
        self.decisions = DecisionLog(options.log)
        self.metrics = Metrics()
        self.telemetry = Telemetry(options.telemetry, self.metrics)
        self.engine = Engine(backbone, scoring, self.decisions, options.engine, make_stepper, self.metrics)
        self.vocabulary_size = backbone.vocab_size
        self._longest_token = max(len(piece) for piece in backbone.tokenizer.get_vocab())
        self.bodies = BodyRoom()
        self.keyring = Keyring(options.all_keys, options.tenants)
        self._policies = options.policies or Policies(policy_of(options.engine.mode))
        self.tenancy = Tenancy(options.tenants, self.metrics, options.campaigns)
        self.decisions.on_purge = self.tenancy.remove_alerts
        self._decoding = anyio.CapacityLimiter(1)
        self._tokenising = anyio.CapacityLimiter(1)

    @classmethod
    def from_guard(
        cls, guard: Guard, options: GatewayOptions, *, name: str | None = None, reads_only: bool = False
    ) -> "Gateway":
        """Make a gateway that serves the guard's own backbone under the guard.

        Args:
            name: name of the guard that clients see; by default the name in the guard's record.
            reads_only: whether all answers are written elsewhere.
        """
        if options.engine.mode == "off":
            return cls(guard.backbone, None, options)
        about = describe_guard(guard, name)
        made = cls(guard.backbone, scoring_of(guard), options, about, reads_only=reads_only)
        made.guard_folder = guard.path
        return made

    def add_guard(self, name: str, guard: Guard, *, shown: str | None = None) -> None:
        """Let a further guard judge the requests of tenants and keys that name it. Call it before the start.

        Its engine has limits and key-value memory of its own. The memory of conversations is not for it.

        Args:
            guard: the guard, loaded onto `whole`.
            shown: its name for clients; by default the name in its record.

        Raises:
            ConfigError: the name is taken, the guard is of another backbone, or the server can't have it.
        """
        if self.options.engine.mode == "off" or not self._runs_here:
            raise ConfigError(f"guards.{name}: only a model in this process has several guards, not mode off")
        if guard.backbone is not self.whole:
            raise ConfigError(f"guards.{name}: was not loaded onto this server's backbone")
        made = self._add(name, scoring_of(guard))
        made.about_guard, made.guard_folder = describe_guard(guard, shown), guard.path

    def _add(self, name: str, scoring: Scoring) -> "Gateway":
        made = copy.copy(self)
        # The memory of conversations was made for the default guard.
        made.guard_name, made.options = name, replace(self.options, conversations=None)
        if self._reads_only:
            made.backbone = front(self.whole, 1 + max(scoring.stages.head.layers))
        made.metrics, engine = self.metrics.of_guard(name), self.options.engine
        made.engine = Engine(made.backbone, scoring, self.decisions, engine, metrics=made.metrics)
        self.guards.add(name, made)
        self.decisions.on_block = self.guards.halt_open
        return made

    def of(self, client: Client) -> "Gateway":
        """Return the gateway of the guard that judges a client's requests. Raises ApiError (503): none."""
        return self if self.options.engine.mode == "off" else self.guards.of(client)

    @property
    def policies(self) -> Policies:
        """What decisions and failures mean, for all guards."""
        return self.guards.first._policies

    @policies.setter
    def policies(self, policies: Policies) -> None:
        self.guards.first._policies = policies

    @property
    def mode(self) -> str:
        """The mode for requests that no route, no key and no tenant changes."""
        return self.mode_for(NOBODY)

    def mode_for(self, client: Client) -> str:
        """Return the mode for a client's requests that no route changes."""
        mode = self.options.engine.mode
        return mode if mode == "off" else self.policy_for(client).mode

    def policy_for(self, client: Client) -> Policy:
        """Return the policy for a client's requests that no route changes."""
        return client.change.apply(self.policies.general)

    def start(self) -> None:
        """Open the databases and start the engines.

        Raises:
            DecisionLogError: the log can't be written.
            OperationsError: tenants can't be read.
        """
        self.tenancy.open()
        self.decisions.open()
        for engine in self.guards.engines:
            engine.start()
        self.telemetry.start()

    def warm(self) -> None:
        """Take one step of each stage before the engines start, because the first step is slow."""
        for engine in self.guards.engines:
            engine.warm()

    def promote(self, guard: Guard | str | Path, by: str, *, name: str = DEFAULT) -> GuardChange:
        """Let another guard of the same backbone take over, and record it. Not on the event loop.

        Open answers go on under the guard that they began with. It takes until they have ended.
        After `EngineOptions.promotion_timeout` seconds those that are left get a 503.

        Args:
            guard: the guard, loaded onto `whole`, or the folder of its bundle, or `embedded`.
            by: who wants it, such as `config` or the name of a reviewer's key.
            name: name of the guard in whose place it comes. Answers under the others are not touched.

        Returns:
            What the decision log has about it.

        Raises:
            PromotionError: it does not suit this server, or the change can't be recorded.
            ConfigError: there is no guard of that name.
            LockgateError: the bundle is damaged, was made for another backbone, or can't be opened.
                In all these cases the old guard goes on.
        """
        return promote(self.guards.find(name), guard, by)

    def close(self, timeout: float = 10.0) -> Left:
        """End open streams, write their decisions and stop the engines. Return what was not written."""
        for engine in self.guards.engines:
            engine.close(timeout)
        left = self.decisions.close(timeout)
        self.tenancy.close()
        self.telemetry.close()
        return left

    async def parse(self, body: bytes) -> ChatRequest:
        """Decode and check a body beside the event loop, one body at a time. Raises ApiError (400)."""
        return await self.decode(lambda: self._parse(body))

    async def decode(self, read: Callable[[], T]) -> T:
        """Call what decodes and checks a body, beside the event loop and one body at a time."""
        return await anyio.to_thread.run_sync(read, limiter=self._decoding)

    def _parse(self, body: bytes) -> ChatRequest:
        return parse_chat_request(
            decode_body(body),
            vocabulary_size=self.vocabulary_size,
            max_choices=self.options.engine.max_streams,
        )

    async def prepare(
        self,
        request: ChatRequest,
        deliver: Callable[[Event], None],
        client: Client = NOBODY,
        policy: Policy | None = None,
    ) -> Job:
        """Tokenise a request of `client` and check it against the context. Raises ApiError (400).

        Args:
            policy: what a decision means. None takes the general one.
        """
        if request.sampling.logprobs and not self.engine.gives_logprobs:
            raise invalid("logprobs", "is not supported with this engine")
        # No token is longer than `_longest_token` characters, so longer text can't fit. Check that first:
        # otherwise one client could keep a core busy with tokenising text that is refused anyway.
        characters = sum(len(message.content) for message in request.messages)
        if characters > self.backbone.context_length * self._longest_token:
            raise self._too_long(f"more than {characters // self._longest_token}")
        if len(request.messages) > self.backbone.context_length:
            raise self._too_long(f"more than {len(request.messages)}")
        rendered = await self._tokenised(request.messages)
        prompt_tokens = len(rendered.token_ids)
        memory = most_tokens(self.engine.kv_tokens, request.n) // request.n
        room = min(self.backbone.context_length, memory) - prompt_tokens
        if prompt_tokens >= self.backbone.context_length:
            raise self._too_long(str(prompt_tokens))
        self.tenancy.count_prompt(client, rendered.token_ids)
        if room < 1:
            raise invalid(
                "n", f"{request.n} answers to a prompt of {prompt_tokens} tokens don't fit in memory"
            )
        name = completion_id()
        job = Job(
            id=name,
            mode=client.change.apply(policy or self.policies.general).mode_for(name),
            prompt=rendered.token_ids,
            regions=regions_of(rendered),
            chat=rendered,
            max_tokens=min(request.max_tokens or self.options.default_max_tokens, room),
            n=request.n,
            stops=request.stops,
            sampling=request.sampling,
            seed_basis=request.seed_basis,
            deliver=deliver,
            client=client.name,
            tenant=client.tenant,
            key=client.key,
            messages=self._kept(request.messages),
        )
        return traced(self.tenancy.watched(job, client), self.model_id)

    async def prepare_given(
        self,
        messages: Sequence[Message],
        deliver: Callable[[Event], None],
        client: Client = NOBODY,
        *,
        n: int = 1,
        max_tokens: int | None = None,
        begin: Callable[[], None] = lambda: None,
        policy: Policy | None = None,
        hold: Hold = NO_HOLD,
        aside: bool = False,
    ) -> Job:
        """Make a job for answers that are written elsewhere, to `messages`.

        A conversation may be longer than the context: it is read in windows. `Engine.give` takes the answers.

        Args:
            n: number of answers.
            max_tokens: length of an answer as far as it is known, to reserve memory for it.
            begin: called on the engine's thread when the prompt is cleared.
            policy: what a decision and a failure mean. None takes the general one.
            hold: how much of an answer is read in one step.
            aside: whether it only repeats what another job reads, so that it counts for no limit.

        Raises:
            ApiError: the server has no guard (400), the prompt is too long (400), roles are out of order, or
                the client's tokens are used up (429).
        """
        if not self.engine.reads_given:
            raise ApiError(400, "This server has no guard that could read text.", code="no_guard")
        characters = sum(len(message.content) for message in messages)
        if characters > self.options.longest_prompt * self._longest_token:
            raise too_long_to_read(self.options.longest_prompt)
        rendered = await self._tokenised(messages)
        if len(rendered.token_ids) > self.options.longest_prompt:
            raise too_long_to_read(self.options.longest_prompt)
        if not aside:
            self.tenancy.count_prompt(client, rendered.token_ids)
        wanted = len(rendered.token_ids) + (max_tokens or self.options.default_max_tokens) + SPARE_TOKENS
        most = most_tokens(self.engine.kv_tokens, n) // n
        name = completion_id()
        job = Job(
            id=name,
            mode=client.change.apply(policy or self.policies.general).mode_for(name),
            fails_open=policy is not None and policy.on_failure == "open",
            prompt=rendered.token_ids,
            regions=regions_of(rendered),
            chat=rendered,
            max_tokens=sys.maxsize,
            n=n,
            stops=(),
            sampling=SamplingParams(),
            seed_basis="",
            deliver=deliver,
            client=client.name,
            tenant=client.tenant,
            key=client.key,
            intakes=[Intake(self.backbone.tokenise_answer(), hold) for _ in range(n)],
            memory=min(wanted, most, self.backbone.context_length),
            begin=begin,
            messages=self._kept(messages),
        )
        return traced(job if aside else self.tenancy.watched(job, client))

    def _kept(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages that a job keeps for the decision log."""
        return tuple(messages) if self.options.log.keeps_content else ()

    def follow(self, job: Job, request: Request) -> None:
        """Judge a job in the light of its conversation, if the server remembers conversations."""
        if self.options.conversations is not None and self.options.engine.mode != "off":
            self.options.conversations.follow(job, request)

    async def count_answer(self, text: str) -> int:
        """Count the tokens of a whole answer that was written elsewhere.

        Raises:
            ApiError: it is longer than the longest prompt that the guard reads (400).
        """
        if len(text) > self.options.longest_prompt * self._longest_token:
            raise too_long_to_read(self.options.longest_prompt)
        tokens = await anyio.to_thread.run_sync(count_tokens, self.backbone, text, limiter=self._tokenising)
        if tokens > self.options.longest_prompt:
            raise too_long_to_read(self.options.longest_prompt)
        return tokens

    @property
    def ready(self) -> bool:
        """Whether new requests are taken."""
        return self.engine.alive and not self.engine.stalled and self.decisions.admits

    def problems(self) -> list[str]:
        """List the faults that are open now. The list is empty when there are none."""
        found = engine_problems(self.engine) + self.guards.problems()
        if self.decisions.failure is not None:
            found.append(f"{self.decisions.failure}; {self.decisions.unwritten} decisions wait")
        return found + self.tenancy.problems()

    async def _tokenised(self, messages: Sequence[Message]) -> RenderedChat:
        read = partial(render_prompt, self.backbone, messages)
        return await anyio.to_thread.run_sync(read, limiter=self._tokenising)

    def _too_long(self, tokens: str) -> ApiError:
        return too_long(self.backbone.context_length, tokens)


def gateway_of(request: Request) -> Gateway:
    """Return the gateway of the guard that judges a request. Raises ApiError (503), as `Gateway.of` does."""
    first: Gateway = request.app.state.gateway
    return first.of(caller_of(request))
