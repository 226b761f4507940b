"""Alerts and next steps on the overview, ranked: failures, open votes, missing evaluations, untried features. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.domain.wording import plural

MAX_KEY = 400


class StepKind(StrEnum):
    """Target of a step's button."""

    ALERT = "alert"
    ENDPOINT = "endpoint"
    RUN = "run"
    WORKERS = "workers"
    VOTE = "vote"
    EVALUATE = "evaluate"
    IMPORT = "import"
    STARTER = "starter"
    CAMPAIGN = "campaign"
    DEPLOY = "deploy"
    CHAT = "chat"


@dataclass(frozen=True)
class NextStep:
    """A step: its text, the label of its button, and the id or name that the button's page needs. `situation` is what
    it rests on beside the subject: when it changes, the step is another.
    """

    kind: StepKind
    text: str
    action: str
    subject: str = ""
    situation: str = ""

    @property
    def key(self) -> str:
        """Return the key of what the step is about; a dismissed one stays away as long as this stays the same."""
        return f"{self.kind}:{self.subject}:{self.situation}"[:MAX_KEY]

    @property
    def is_alert(self) -> bool:
        """Return whether something fails, rather than awaits."""
        return self.kind in (StepKind.ALERT, StepKind.ENDPOINT, StepKind.WORKERS, StepKind.RUN)


@dataclass(frozen=True)
class AttentionItem:
    """Something that needs attention. `detail`: the cause of a failure; `kind`: its kind, which stays while the cause's
    numbers change.
    """

    id: str
    name: str
    detail: str = ""
    kind: str = ""


@dataclass(frozen=True)
class AwaitedVotes:
    """An open campaign and the votes that the visitor can still cast in it."""

    id: str
    name: str
    num_votes: int


@dataclass(frozen=True, kw_only=True)
class Situation:
    """State of an installation for one visitor. Lists are newest first; checkpoints are those that generate text.

    `idle_queues`: (queue, number of queued jobs) where no living worker serves the queue. `alerts` are open ones of the
    monitor; `troubled_runs` train and are diagnosed with an error, or have ended, diverged or without having
    learned anything.
    """

    has_data: bool = False
    is_importing: bool = False
    is_training: bool = False
    checkpoints: tuple[AttentionItem, ...] = ()
    has_campaigns: bool = False
    has_deployments: bool = False
    has_chats: bool = False
    endpoints: tuple[AttentionItem, ...] = ()
    alerts: tuple[AttentionItem, ...] = ()
    failing_endpoints: tuple[AttentionItem, ...] = ()
    idle_queues: tuple[tuple[str, int], ...] = ()
    failed_runs: tuple[AttentionItem, ...] = ()
    troubled_runs: tuple[AttentionItem, ...] = ()
    votes: tuple[AwaitedVotes, ...] = ()
    served_without_evaluation: tuple[AttentionItem, ...] = ()
    trained_without_evaluation: tuple[AttentionItem, ...] = ()


def next_steps(situation: Situation) -> tuple[NextStep, ...]:
    """Return the next steps, most urgent first: failures, votes, missing evaluations, then untried features."""
    return (*_failures(situation), *_votes(situation), *_evaluations(situation), *_first_times(situation))


def _failures(situation: Situation) -> list[NextStep]:
    return [
        *(
            NextStep(
                StepKind.ENDPOINT,
                _with_cause(f"The endpoint {endpoint.name} does not start", endpoint.detail),
                "See the endpoint",
                situation=f"{endpoint.name}: {endpoint.detail}",
            )
            for endpoint in situation.failing_endpoints
        ),
        *(NextStep(StepKind.ALERT, alert.name, "See the monitor", situation=alert.id) for alert in situation.alerts),
        *(
            NextStep(
                StepKind.WORKERS,
                f"{plural(num_jobs, 'job')} queued, and no worker serves the queue {queue}.",
                "See the workers",
                situation=queue,
            )
            for queue, num_jobs in situation.idle_queues
        ),
        *(
            NextStep(
                StepKind.RUN,
                _with_cause(f"The run {run.name} is in trouble", run.detail),
                "See the run",
                run.id,
                situation=run.kind,
            )
            for run in situation.troubled_runs
        ),
        *(
            NextStep(
                StepKind.RUN,
                _with_cause(f"The run {run.name} failed", run.detail),
                "See the run",
                run.id,
                situation="failed",
            )
            for run in situation.failed_runs
        ),
    ]


def _with_cause(text: str, cause: str) -> str:
    return f"{text}: {cause}" if cause else f"{text}."


def _votes(situation: Situation) -> list[NextStep]:
    return [
        NextStep(
            StepKind.VOTE, f"{campaign.name} awaits {plural(campaign.num_votes, 'vote')} from you.", "Vote", campaign.id
        )
        for campaign in situation.votes
        if campaign.num_votes > 0
    ]


def _evaluations(situation: Situation) -> list[NextStep]:
    unique = {item.id: item for item in (*situation.served_without_evaluation, *situation.trained_without_evaluation)}
    return [
        NextStep(StepKind.EVALUATE, f"{item.name} has no evaluation.", "Evaluate", item.id) for item in unique.values()
    ]


def _first_times(situation: Situation) -> list[NextStep]:
    """Return the next step of the loop from data to chat that is still open. A step in progress counts as done."""
    steps = []
    if not situation.has_data and not situation.is_importing:
        steps.append(NextStep(StepKind.IMPORT, "There is no dataset to train on yet.", "Import a dataset"))
    if situation.has_data and not situation.checkpoints and not situation.is_training and not situation.failed_runs:
        steps.append(
            NextStep(
                StepKind.STARTER,
                "No model is trained yet.",
                "Train the starter model",
            )
        )
    if len(situation.checkpoints) > 1 and not situation.has_campaigns:
        first, second = situation.checkpoints[0].name, situation.checkpoints[1].name
        steps.append(
            NextStep(
                StepKind.CAMPAIGN,
                f"{first} and {second} were never compared by blind votes.",
                "Start a campaign",
                situation=f"{first}, {second}",
            )
        )
    if situation.checkpoints and not situation.has_deployments:
        newest = situation.checkpoints[0]
        steps.append(NextStep(StepKind.DEPLOY, f"{newest.name} can answer at an endpoint.", "Deploy", newest.id))
    if situation.endpoints and not situation.has_chats:
        endpoint = situation.endpoints[0]
        steps.append(NextStep(StepKind.CHAT, f"{endpoint.name} is ready.", "Chat", endpoint.name))
    return steps
