"""What a server does for its tenants, or nothing if it has none."""

import logging
from collections.abc import Sequence
from functools import partial

from lockgate.decisions import Decision
from lockgate.errors import OperationsError
from lockgate.gateway._clients import Client
from lockgate.gateway._errors import ApiError
from lockgate.gateway._jobs import Job
from lockgate.gateway._limited import limit_exceeded
from lockgate.gateway._logs import fields
from lockgate.gateway._metrics import Metrics
from lockgate.tenants import CampaignOptions, Campaigns, Sign, Tenants

logger = logging.getLogger("lockgate.campaigns")


class Tenancy:
    """The tenants of a server.

    Args:
        metrics: tells which exchanges are over, and counts alerts.
        campaigns: what counts as a campaign. None watches nothing.
    """

    def __init__(
        self, tenants: Tenants | None, metrics: Metrics, campaigns: CampaignOptions | None = None
    ) -> None:
        self._tenants = tenants
        self._metrics = metrics
        self._campaigns = None if campaigns is None else Campaigns(campaigns)
        if tenants is not None:
            metrics.listeners.append(self._note)

    def open(self) -> None:
        """Open the operations database, unless it is open. Raises OperationsError."""
        if self._tenants is not None and not self._tenants.database.is_open:
            self._tenants.open()

    def close(self) -> None:
        """Close it, and give back what this server holds of its limits."""
        if self._tenants is not None:
            self._tenants.close()

    def problems(self) -> list[str]:
        """List the faults that are open now."""
        if self._tenants is None:
            return []
        # Who may read this need not know where the database is.
        found = [] if self._tenants.fault is None else ["the operations database can't be read"]
        if self._tenants.limits.fault is not None:
            found.append("limits of tenants can't be renewed: tenants that have some may get 503")
        return found

    def remove_alerts(self, days: float) -> None:
        """Remove alerts that are older than so many days, in the background."""
        if self._tenants is not None:
            self._tenants.later(partial(self._remove_alerts, self._tenants, days))

    def _remove_alerts(self, tenants: Tenants, days: float) -> None:
        try:
            tenants.remove_alerts(days)
        except OperationsError as error:
            logger.error("%s; old alerts stay for another hour", error)

    def count_prompt(self, client: Client, tokens: Sequence[int]) -> None:
        """Hold a client's prompt against its limits.

        Raises:
            ApiError: it is too long (400), or its tenant has used up its tokens meanwhile (429).
        """
        longest = client.settings.longest_prompt
        if longest is not None and len(tokens) > longest:
            raise ApiError(
                400,
                f"This tenant's prompts hold {longest} tokens, but the messages come to {len(tokens)}. "
                "Shorten them.",
                param="messages",
                code="context_length_exceeded",
            )
        if self._tenants is not None and client.tenant:
            refusal = self._tenants.limits.try_spend(client.tenant, len(tokens))
            if refusal is not None:
                raise limit_exceeded(refusal)

    def watched(self, job: Job, client: Client) -> Job:
        """Let a client's job count for the signals of campaigns: once, whatever its number of choices."""
        if self._campaigns is not None and client.holder is not None:
            seen: list[float] = []

            def remember(margin: float, campaigns: Campaigns = self._campaigns) -> None:
                # A flag counts at once. The engine's lock is held.
                told = any(not one <= 0 for one in seen)
                seen.append(margin)
                if not told and (not margin <= 0 or len(seen) == job.n):
                    self._watch(campaigns, job, client, margin if not margin <= 0 else max(seen))

            job.remember = remember
        return job

    def _watch(self, campaigns: Campaigns, job: Job, client: Client, margin: float) -> None:
        prompt = job.prompt[job.regions.prompt_start : job.regions.answer_start]
        # The memory of a conversation may have flagged it below the threshold.
        for sign in campaigns.note(f"{client.holder} {client.key}", margin + job.lowered, prompt):
            self._metrics.alerted(sign.signal)
            if self._tenants is not None:
                self._tenants.later(partial(self._alert, self._tenants, campaigns, client, sign))

    def _alert(self, tenants: Tenants, campaigns: Campaigns, client: Client, sign: Sign) -> None:
        """Keep an alert and tell the operator."""
        tenant, key, minutes = client.tenant or "", client.key or "", campaigns.options.lock_out_minutes
        locked, fault = False, ""
        try:
            alert = tenants.add_alert(tenant, key, sign, None if minutes is None else 60 * minutes)
            locked = alert.locked_until is not None
        except OperationsError as error:
            fault = f"; it could not be kept: {error}"
        told = fields(
            event="campaign", tenant=tenant, key=key, signal=sign.signal, value=round(sign.value, 1),
            bound=sign.bound, exchanges=sign.exchanges, locked=locked,
        )  # fmt: skip
        words = "campaign: key %s of tenant %s: %s %.1f, bound %g, %d exchanges%s%s"
        what = (key or "-", tenant or "-", sign.signal, sign.value, sign.bound, sign.exchanges)
        logger.warning(words, *what, ", locked out" if locked else "", fault, extra=told)

    def _note(self, record: Decision) -> None:
        if self._tenants is not None and record.tenant:
            self._tenants.limits.spend(record.tenant, record.completion_tokens)
