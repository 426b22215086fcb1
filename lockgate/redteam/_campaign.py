"""Campaigns: what is attacked, by which attacks, with which questions and budgets. Read from YAML."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lockgate.redteam._queries import Strict, read_strict
from lockgate.synthesis import EndpointConfig

_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class Variant(Strict):
    """One target.

    Attributes:
        guard: folder of a guard, `embedded` or `stand-in`; None for none.
        backbone: folder of the guard's backbone, if it is not the embedded one.
        view: `exchange`, or `parts` (see `Guarded`).
        answers: who answers. `obedient` is a model that answers all in full, `embedded` the embedded model.
        endpoint: an OpenAI-compatible endpoint that answers, in place of `answers`. It may have a guard.
    """

    guard: str | None = None
    backbone: str | None = None
    view: Literal["exchange", "parts"] = "exchange"
    answers: Literal["obedient", "embedded"] | None = None
    endpoint: EndpointConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.answers is not None and self.endpoint is not None:
            raise ValueError("give answers or endpoint, not both")
        if self.guard is None and (self.backbone is not None or self.view != "exchange"):
            raise ValueError("backbone and view need guard")
        return self

    def beside(self, folder: Path) -> Self:
        """Return the variant with its paths relative to a folder."""
        if self.guard is None:
            return self
        from lockgate.guards import is_shipped

        guard = self.guard if is_shipped(self.guard) else str(folder / self.guard)
        named = self.backbone in (None, "embedded")
        return self.model_copy(
            update={"guard": guard, "backbone": self.backbone if named else str(folder / str(self.backbone))}
        )

    @property
    def speaker(self) -> str:
        """Who answers: variants with the same one can be compared."""
        return self.endpoint.identity if self.endpoint is not None else self.answers or "obedient"


class Campaign(Strict):
    """A campaign.

    Attributes:
        name: its name in reports.
        queries: a set in the package, or a file. A path is relative to the campaign's file.
        attacks: names or families of attacks; `all` for all that need no attacker model.
        held_out: families that the attacked guards were not trained on. Reports name them apart.
        depth: disguises in a composed attack.
        seeds: how often each attack is played against each query, with other choices.
        attempts: tries of an adaptive attack against one query.
        attacker: the model that invents attempts for `pair` and `tap`. Without it they are not played.
        detail: share of a full answer's topics that makes a success.
        max_tokens: longest answer of a model that writes.
        batch: attempts that are asked together.
        twins: permitted twins that each fixed attack asks too. Attacks take turns at those of the queries.
        variants: the targets by name.
    """

    name: _Name
    queries: str = "stage-magic"
    attacks: tuple[str, ...] = ("all",)
    held_out: tuple[str, ...] = ()
    depth: int = Field(default=3, ge=1, le=6)
    seeds: int = Field(default=1, ge=1, le=1000)
    attempts: int = Field(default=20, ge=1, le=1_000_000)
    attacker: EndpointConfig | None = None
    detail: float = Field(default=0.5, gt=0, le=1)
    max_tokens: int = Field(default=400, ge=1, le=32_768)
    batch: int = Field(default=32, ge=1, le=1024)
    twins: int = Field(default=2, ge=0)
    variants: dict[_Name, Variant] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> "Campaign":
        """Read a campaign. Its paths are relative to the file. Raises RedTeamError: names file and field."""
        campaign = read_strict(cls, path)
        own = path.parent / campaign.queries
        changes: dict[str, object] = {"queries": str(own)} if own.is_file() else {}
        changes["variants"] = {name: one.beside(path.parent) for name, one in campaign.variants.items()}
        return campaign.model_copy(update=changes)
