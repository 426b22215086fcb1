"""Passes over embeddings instead of tokens, with gradients, through the modules that serve a guard."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lockgate.backbones import Backbone, TreeStep, derive, tree_part
from lockgate.classifiers import ExchangeClassifier, ProbeHead, ProbeTap
from lockgate.errors import RedTeamError


class ProbeReader:
    """The served model with a probe. It has its own modules over the same weights, so no pass sees its hooks.

    Raises:
        RedTeamError: the backbone is quantised, so there are no gradients.
    """

    def __init__(self, backbone: Backbone, head: ProbeHead) -> None:
        if backbone.is_quantised:
            raise RedTeamError(f"{backbone.name} is quantised: load a checkpoint with gradients")
        self.backbone = derive(backbone)
        self.tap = ProbeTap([head], backbone.hidden_size, backbone.device)
        self.backbone.use_tap(self.tap)

    def embed(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the embeddings `[rows, tokens, hidden]` of sequences of one length."""
        numbers = torch.tensor(ids, device=self.backbone.device)
        found: Tensor = self.backbone.model.get_input_embeddings()(numbers)
        return found

    def read(self, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Read sequences `[rows, tokens, hidden]` side by side.

        Returns:
            The harm logits `[rows, tokens]`, float64, and the final hidden states `[rows, tokens, hidden]`.
        """
        rows, tokens, _ = embeds.shape
        self.tap.begin(rows * tokens)
        step = TreeStep([tree_part(row * tokens, tokens, (), 0) for row in range(rows)])
        hidden = run(self.backbone, embeds.flatten(0, 1), step)
        return self.tap.logits[:, 0].cpu().double().view(rows, tokens), hidden.view(rows, tokens, -1)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Return the log-probabilities of each next token, `[..., vocab]`, after final hidden states."""
        every = range(self.backbone.vocab_size)
        logits = self.backbone.token_logits(hidden.flatten(0, -2), every)
        return logits.log_softmax(-1).view(*hidden.shape[:-1], len(every))


class VerdictReader:
    """An exchange classifier that gives its verdicts of one conversation at several cuts in one pass.

    Args:
        classifier: the classifier.
        start: conversation tokens before the answer.
        ends: answer tokens read at each cut.
    """

    def __init__(self, classifier: ExchangeClassifier, start: int, ends: Sequence[int]) -> None:
        self.classifier = classifier
        self._length = start + ends[-1]
        self._start = start
        self._ends = list(ends)
        suffix = torch.tensor([classifier.suffix], device=classifier.backbone.device, dtype=torch.long)
        with torch.no_grad():
            self._suffix: Tensor = classifier.backbone.model.get_input_embeddings()(suffix)

    @property
    def tokens(self) -> int:
        """Tokens that a pass reads for one conversation."""
        return self._length + len(self._ends) * self.classifier.tokens_per_verdict

    def read(self, embeds: Tensor) -> Tensor:
        """Return the verdicts `[rows, cuts]`, float64, of conversations `[rows, tokens, hidden]`."""
        rows, cuts, suffix = len(embeds), len(self._ends), self.classifier.tokens_per_verdict
        asked = self._suffix.repeat(rows, cuts, 1)
        whole = torch.cat([embeds[:, : self._length], asked], dim=1)
        places = [self._start + end for end in self._ends]
        cut = places if suffix else ()
        step = TreeStep([tree_part(row * self.tokens, self._length, cut, suffix) for row in range(rows)])
        hidden = run(self.classifier.backbone, whole.flatten(0, 1), step).view(rows, self.tokens, -1)
        if suffix:
            last = hidden[:, self._length + suffix - 1 :: suffix]
            return self.classifier.verdict_logits(last.flatten(0, 1)).cpu().double().view(rows, cuts)
        # A value head counts from the token before the answer, and a verdict is the highest value so far.
        values = self.classifier.verdict_logits(hidden[:, self._start - 1 :].flatten(0, 1)).cpu().double()
        return values.view(rows, -1).cummax(1).values[:, self._ends]


def run(backbone: Backbone, embeds: Tensor, step: TreeStep) -> Tensor:
    """Run one pass over embeddings `[tokens, hidden]`. Return the final hidden states; gradients flow."""
    positions = torch.cat([part.positions for part in step.blocks]).to(embeds.device)
    output = backbone.model.get_decoder()(
        inputs_embeds=embeds.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, packed=step
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden
