"""Judge models: the list of judgements, the form that starts one, and what one found, beside people's votes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import streamlit as st

from backend.domain.evaluation.judges import Figure, JudgeConfig, JudgeItem, JudgeSummary, VerdictRecord
from backend.domain.evaluation.safety.harm import RUBRICS
from backend.domain.jobs.states import ACTIVE
from backend.domain.wording import plural, shorten
from backend.services.battles.views import list_campaigns
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.evaluation.evaluations import get_evaluation
from backend.services.evaluation.judgements import (
    Author,
    Judge,
    campaign_authors,
    campaign_items,
    evaluation_authors,
    evaluation_items,
    get_judgement,
    judged_evaluations,
    judges_itself,
    launch_judgement,
    list_answered,
    list_judgements,
    read_judge_items,
    read_verdicts,
)
from backend.services.evaluation.safety.runs import read_reports
from backend.services.serving.endpoints import list_endpoints
from pages.components import routes
from pages.components.choices import by_identity, choose_from, choose_one
from pages.components.evaluation.endpoints import subject_label
from pages.components.forms import draw_fields
from pages.components.frame import errors_shown, object_heading, plain, show_problem
from pages.components.job_progress import draw_job, status_badge
from pages.components.links import row_link
from pages.components.numbers import number_form, wrong_numbers
from pages.components.tables import draw_table
from pages.components.words import when

PAGE = routes.EVALUATIONS
RUBRIC_NAMES = {"quality": "Quality", "harm": "Harm of the answer", "refusal": "Refusal, in any language"}
SHOWN = 20
KINDS: dict[Literal["checkpoint", "endpoint", "model"], str] = {
    "checkpoint": "Checkpoint",
    "endpoint": "Endpoint",
    "model": "API model",
}
FIGURES: dict[str, tuple[str, str]] = {
    "kappa": ("Agreement with votes", "Cohen's kappa with the votes at the time: 1 is perfect, 0 is chance"),
    "tie_rate": ("Ties", "inconsistent pairs count as ties"),
    "inconsistent": ("Inconsistent", "different verdicts in the two orders"),
    "position_bias": ("First position preferred", "0.5 is unbiased"),
    "length_bias": ("Longer answer preferred", "0.5 is unbiased; of scores: rank correlation with length"),
    "canary": ("Score of an empty answer", "an answer that says nothing; near 0 for a judge that reads"),
}


def draw_judgements(ctx: Context, person: Person, *, evaluation_id: str = "") -> None:
    """Draw the form, open for the answers of an evaluation if one is given, and the newest judgements."""
    object_heading("Judges")
    st.caption("A judge model reads answers and gives each a verdict. Votes of people say how far it can be trusted.")
    if person.may_build:
        with st.expander(
            "New judgement",
            icon=":material/gavel:",
            expanded=bool(evaluation_id) or not list_judgements(ctx, limit=1),
            key="judge_new",
        ):
            _draw_form(ctx, person, evaluation_id)
    for judgement in list_judgements(ctx):
        with st.container(horizontal=True, vertical_alignment="center"):
            row_link(
                judgement.job.title,
                page=PAGE,
                query={"judgement": judgement.job.id},
                icon="gavel",
                key=f"judged_{judgement.job.id}",
            )
            status_badge(judgement.job.status.value)
            if judgement.summary is not None:
                st.caption(_short(judgement.summary), width="content")
            st.caption(when(judgement.job.created_at, now=ctx.now()), width="content")


def _short(summary: JudgeSummary) -> str:
    marked = "" if summary.trusted is not False else "; can't tell an empty answer from a real one"
    return f"{plural(summary.items, 'item')}, {summary.missing} without a verdict{marked}"


@dataclass(frozen=True)
class AnswerSource:
    """Answers to judge, by `authors`. `read` gives the items, None while nothing is chosen; `evaluations` are the
    answers'.
    """

    read: Callable[[], list[JudgeItem]] | None
    is_pairwise: bool
    evaluations: tuple[str, ...] = ()
    campaign_id: str | None = None
    authors: Sequence[Author] = ()


def _choose_source(ctx: Context, chosen: str) -> AnswerSource:
    names = ["Evaluation", "Campaign", "File"]
    campaigns = {campaign.id: campaign for campaign in list_campaigns(ctx) if campaign.num_votes}
    first = "Campaign" if not chosen and (campaigns or not list_answered(ctx)) else "Evaluation"
    name = choose_one("Answers", names, default=first, key=f"judge_source_{chosen}")
    if name == "Evaluation":
        return _choose_evaluations(ctx, chosen)
    if name == "File":
        file = st.file_uploader(
            "JSON Lines",
            type=["jsonl", "json"],
            key="judge_file",
            help='{"prompt", "answer"}, with "answer_b" for pairs, "human" for votes.',
        )
        pairwise = st.toggle(
            "Pairwise", value=False, key="judge_pairwise", help="Compare answer and answer_b, in both orders."
        )
        read = partial(read_judge_items, file.getvalue().decode("utf-8-sig", "replace").split("\n")) if file else None
        return AnswerSource(read, pairwise)
    if not campaigns:
        st.caption("No campaign has votes yet.")
        return AnswerSource(None, True)
    campaign = choose_from("Campaign", {key: one.name for key, one in campaigns.items()}, key="judge_campaign")
    return AnswerSource(
        partial(campaign_items, ctx, campaign),
        True,
        campaign_id=campaign,
        authors=campaign_authors(campaigns[campaign]),
    )


def _choose_evaluations(ctx: Context, chosen: str) -> AnswerSource:
    answered = {one.id: one for one in list_answered(ctx)}
    if not answered:
        st.caption("No finished evaluation has generated answers yet.")
        return AnswerSource(None, False)

    def label(key: str) -> str:
        one = answered[key]
        return f"{subject_label(one)} on {one.benchmark}, {when(one.created_at, now=ctx.now())}"

    keys = list(answered)
    at = keys.index(chosen) if chosen in answered else 0
    words = by_identity(f"judge_evaluation_{chosen}", keys, label)
    first = st.selectbox("Evaluation", keys, index=at, format_func=words, key=f"judge_evaluation_{chosen}")
    others = [one.id for one in list_answered(ctx, like=answered[first])]
    second = choose_from(
        "Compare with",
        others,
        words=label,
        key=f"judge_against_{first}",
        value=None,
        placeholder="None: grade each answer by a rubric",
        help="Pairs of answers to the same items, judged in both orders.",
        disabled=not others,
    )
    chosen_ids = tuple(filter(None, (first, second)))
    return AnswerSource(
        partial(evaluation_items, ctx, first, against=second),
        second is not None,
        chosen_ids,
        authors=evaluation_authors(get_evaluation(ctx, key) for key in chosen_ids),
    )


@number_form
def _draw_form(ctx: Context, person: Person, chosen: str) -> None:
    judge = _choose_judge(ctx, judged=evaluation_authors(one for one in list_answered(ctx) if one.id == chosen))
    source = _choose_source(ctx, chosen)
    if judge is not None and judges_itself(ctx, judge, source.authors):
        st.warning("This model would judge its own answers, which models favour.", icon=":material/warning:")
    pairwise = source.is_pairwise
    rubric = "quality" if pairwise else _choose_rubric(ctx, source)
    first = RUBRICS[rubric].model_copy(update={"mode": "pairwise" if pairwise else "rubric"})
    values = draw_fields(JudgeConfig, key=f"judge_{rubric}", columns=2, values=first)
    is_off = judge is None or source.read is None or bool(wrong_numbers())
    clicked = st.button("Judge", type="primary", icon=":material/gavel:", key="judge_start", disabled=is_off)
    if clicked and judge is not None and source.read is not None:
        with errors_shown():
            job = launch_judgement(
                ctx,
                judge=judge,
                items=source.read(),
                config=JudgeConfig(mode=first.mode, **values),
                person=person,
                evaluations=source.evaluations,
                campaign_id=source.campaign_id,
            )
            st.switch_page(PAGE, query_params={"judgement": job.id})


def _choose_rubric(ctx: Context, source: AnswerSource) -> str:
    """Draw the choice of a rubric; of answers to a safety probe harm comes first."""
    is_probe = bool(source.evaluations) and any(
        report.scorer for report in read_reports(ctx, source.evaluations).values()
    )
    names = list(RUBRICS)
    at = names.index("harm" if is_probe else "quality")
    return st.selectbox("Rubric", names, index=at, format_func=RUBRIC_NAMES.__getitem__, key=f"judge_rubric_{is_probe}")


def _choose_judge(ctx: Context, *, judged: Sequence[Author]) -> Judge | None:
    """Draw the choice of a judge: one that answers now comes before a checkpoint that a worker would have to load, and
    a model whose own answers are judged comes last.
    """
    writers = [endpoint for endpoint in list_endpoints(ctx, include_stopped=False) if endpoint.writes]
    at_hand: Literal["model", "endpoint", "checkpoint"] = (
        "model" if ctx.policy.judge_url is not None else "endpoint" if writers else "checkpoint"
    )
    kind = choose_one("Judge", KINDS, default=at_hand, key="judge_kind")
    if kind == "model":
        if ctx.policy.judge_url is None:
            st.caption(
                "To judge by a model behind another API, connect its server under Serve > Endpoints and choose it under"
                " Endpoint, or set ROUNDHOUSE_JUDGE_URL. An API among Evaluated endpoints judges as a task's metric."
            )
            return None
        name = st.text_input("Model", key="judge_model").strip()
        return Judge("model", name) if name else None
    if kind == "endpoint":
        names = {endpoint.name: endpoint.name for endpoint in writers}
    else:
        names = {checkpoint.id: checkpoint.name for checkpoint in list_checkpoints(ctx, ready=True)}
    if not names:
        st.caption("No running endpoint writes text." if kind == "endpoint" else "There is no checkpoint yet.")
        return None
    first = next((name for name in names if not judges_itself(ctx, Judge(kind, name), judged)), ...)
    chosen = choose_from(KINDS[kind], names, key=f"judge_{kind}", value=first)
    return Judge(kind, chosen) if chosen else None


def draw_judgement(ctx: Context, person: Person, job_id: str) -> None:
    """Draw one judgement: progress, figures with intervals, cost, and the verdicts with the judge's words."""
    judgement = get_judgement(ctx, job_id)
    object_heading(judgement.job.title)
    st.caption(plain(f"Judged {when(judgement.job.created_at, now=ctx.now())} by: {judgement.criteria}"))
    if judged := judged_evaluations(ctx, job_id):
        with st.container(horizontal=True, vertical_alignment="center"):
            for one in judged:
                label = f"{subject_label(one)} on {one.benchmark}"
                row_link(label, page=PAGE, query={"evaluation": one.id}, key=f"judged_evaluation_{one.id}")
    if judgement.job.status in ACTIVE:
        draw_job(ctx, person, job_id, doing="Judging")
        return
    if (summary := judgement.summary) is None:
        status_badge(judgement.job.status.value)
        if judgement.job.error.cause:
            show_problem(judgement.job.error.cause, judgement.job.error.remedy)
        return
    if summary.trusted is False:
        st.error(
            "This judge does not tell an empty answer from a real one. Do not rely on its verdicts.",
            icon=":material/report:",
        )
    if summary.missing:
        reason = f" Most frequent reason: {summary.reason}" if summary.reason else ""
        st.warning(
            plain(f"{summary.missing} of {plural(summary.items, 'item')} have no verdict and are left out.{reason}"),
            icon=":material/help:",
        )
    rows = [_figure(name, figure, "") for name, figure in {**summary.scores, **summary.label_shares}.items()]
    rows += [
        _figure(label, figure, note)
        for name, (label, note) in FIGURES.items()
        if (figure := getattr(summary, name)) is not None
    ]
    draw_table(rows, key="judge_figures", alt="Figures of the judgement with their 95 % intervals")
    price = "" if summary.price is None else f", {summary.price:.4f} USD"
    st.caption(
        f"{summary.prompt_tokens:,} prompt and {summary.completion_tokens:,} answer tokens{price}. Votes of"
        " people are not changed."
    )
    _draw_verdicts(ctx, job_id)


def _figure(name: str, figure: Figure, note: str) -> dict[str, object]:
    interval = "" if figure.interval is None else f"{figure.interval[0]:.3f} to {figure.interval[1]:.3f}"
    return {
        "Figure": name,
        "Value": f"{figure.value:.3f}",
        "95 % interval": interval,
        "n": figure.n,
        "Reading": note,
    }


def _draw_verdicts(ctx: Context, job_id: str) -> None:
    verdicts = read_verdicts(ctx, job_id)
    has_votes = any(verdict["human"] for verdict in verdicts)
    names = ["All", "Missing", "Inconsistent", *(["Against the votes"] if has_votes else [])]
    choice = choose_one("Verdicts", names, key="judge_filter", is_bare=True)
    chosen = [verdict for verdict in verdicts if _belongs(verdict, choice)]
    st.caption(
        f"{plural(len(chosen), 'verdict')}, the first {SHOWN} shown"
        if len(chosen) > SHOWN
        else plural(len(chosen), "verdict")
    )
    for verdict in chosen[:SHOWN]:
        human = ", ".join(_named(vote, verdict) for vote in verdict["human"]) or "no vote"
        people = f" (people: {human})" if has_votes else ""
        prompt = shorten(" ".join(verdict["prompt"].split()), 60)
        title = f"{prompt}: {_named(verdict['verdict'], verdict)}{people}"
        with st.expander(plain(title), key=f"verdict_{verdict['id']}"):
            for label, texts in (
                ("Prompt", [verdict["prompt"]]),
                ("Answers", verdict["answers"]),
                ("Judge", verdict["judge"]),
            ):
                st.caption(label)
                for text in texts:
                    st.code(text or "", language=None, wrap_lines=True)


def _named(side: str | float | None, verdict: VerdictRecord) -> str:
    """Return a verdict or vote with the name of the answer that it prefers."""
    first, second = verdict["groups"]
    names = {None: "missing", "A": first or "A", "B": second or "B", "TIE": "tie", "BOTH_BAD": "both bad"}
    return names.get(side, str(side)) if side is None or isinstance(side, str) else f"{side:g}"


def _belongs(verdict: VerdictRecord, choice: str) -> bool:
    if choice == "Missing":
        return verdict["verdict"] is None
    if choice == "Inconsistent":
        return bool(verdict["inconsistent"])
    if choice == "Against the votes":
        return verdict["verdict"] is not None and bool(verdict["human"]) and verdict["verdict"] not in verdict["human"]
    return True
