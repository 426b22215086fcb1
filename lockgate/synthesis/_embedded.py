"""The in-process generator: a backbone that decodes many answers side by side."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lockgate.synthesis._requests import Completion, GenerationFailure, GenerationRequest, Generator, Outcome
from lockgate.synthesis._usage import Usage, count_completion

if TYPE_CHECKING:
    from lockgate.backbones import Backbone


class EmbeddedGenerator(Generator):
    """A generator that writes with a backbone, `streams` answers at a time.

    Random draws come from the request's own seed. Floats depend on the answers decoded together, so only
    equal calls give equal answers (`by_batch`). Keep the batches of a pipeline fixed.

    Args:
        backbone: the model.
        streams: answers decoded at a time.
        name: name in data and cards (default: backbone's name, number format and streams).
        identity: the generator's part of request keys (default: `name`).
    """

    by_batch = True

    def __init__(
        self, backbone: "Backbone", *, streams: int = 32, name: str | None = None, identity: str | None = None
    ) -> None:
        dtype = str(next(backbone.model.parameters()).dtype).removeprefix("torch.")
        self.name = name or f"{backbone.name}/{dtype}/{streams}"
        self._identity = identity or self.name
        self.usage = Usage()
        self._backbone = backbone
        self._streams = streams

    @property
    def identity(self) -> str:
        return self._identity

    @classmethod
    def load(
        cls,
        source: str = "embedded",
        *,
        dtype: str = "auto",
        device: str = "auto",
        streams: int = 32,
        name: str | None = None,
        identity: str | None = None,
    ) -> "EmbeddedGenerator":
        """Load a backbone as a generator. `bfloat16` halves the memory; its speed depends on the CPU.

        Raises:
            BackboneError: `source` holds no usable model.
            ConfigError: the device or precision is not there.
        """
        from lockgate.backbones import Backbone

        backbone = Backbone.load(source, device=device, dtype=dtype)
        return cls(backbone, streams=streams, name=name, identity=identity)

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Outcome]]:
        groups: dict[tuple[int, float], list[int]] = {}
        for index, request in enumerate(requests):
            if not self._fits(request):
                self.usage.failures += 1
                yield index, GenerationFailure("too_long", "prompt and answer do not fit the model's context")
            else:
                groups.setdefault((request.max_tokens, request.temperature), []).append(index)
        for (max_tokens, temperature), members in groups.items():
            yield from self._decode(requests, members, max_tokens, temperature)

    def _fits(self, request: GenerationRequest) -> bool:
        chat = self._backbone.render(request.messages, add_generation_prompt=True)
        return len(chat.token_ids) + request.max_tokens <= self._backbone.context_length

    def _decode(
        self, requests: Sequence[GenerationRequest], members: list[int], max_tokens: int, temperature: float
    ) -> Iterator[tuple[int, Outcome]]:
        from lockgate.backbones.generation import decode_answers

        conversations = ((requests[index].messages, requests[index].seed) for index in members)
        for answer in decode_answers(
            self._backbone,
            conversations,
            max_tokens=max_tokens,
            temperature=temperature,
            streams=self._streams,
        ):
            index = members[answer.number]
            completion = Completion(
                answer.text,
                "stop" if answer.finished else "length",
                answer.prompt_tokens,
                answer.completion_tokens,
            )
            count_completion(self.usage, requests[index], completion)
            yield index, completion
