"""One evaluation, with its calibration, contaminated items and check against another engine, and the paired comparison
of two on every benchmark, with p values adjusted for their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import streamlit as st

from backend.domain.evaluation.boards import caveats
from backend.domain.evaluation.config import PREFIX_POLICY, EvaluationKind, describe_scoring, is_score_lower_better
from backend.domain.evaluation.score_text import interval_text, is_share, p_text, score_label, score_text
from backend.domain.jobs.results import EngineCheck, EvaluationFacts, JudgeFacts
from backend.domain.jobs.states import ACTIVE, Status
from backend.domain.statistics.calibration import ProbabilityCalibration
from backend.domain.statistics.estimates import Estimate, macro_average, micro_average
from backend.domain.wording import format_usd, percent, plural, shorten
from backend.services.context import Context, Person
from backend.services.evaluation.baselines import (
    CORRECTION,
    BenchmarkDifference,
    compare_across,
    unlike_benchmarks,
    void_benchmarks,
)
from backend.services.evaluation.board import void_reason_of
from backend.services.evaluation.calibrations import MIN_ITEMS, read_calibration
from backend.services.evaluation.checks import launch_check, read_check
from backend.services.evaluation.comparisons import ALPHA, Comparison, compare, list_comparable, open_pair, order_pair
from backend.services.evaluation.contamination import ContaminationCheck, check_contamination
from backend.services.evaluation.evaluations import EvaluationView, ScoreView, launch_again
from backend.services.jobs.jobs import get_job
from pages.components import routes
from pages.components.charts.style import ACCENT, MARGIN, MUTED, error_bars, fade
from pages.components.choices import choose_from
from pages.components.evaluation.charts import difference_figure
from pages.components.evaluation.endpoints import draw_subject
from pages.components.evaluation.exchange import draw_downloads
from pages.components.evaluation.items import (
    draw_item_page,
    draw_items,
    draw_pair_page,
    draw_pairs,
    is_item_open,
)
from pages.components.evaluation.safety import draw_safety_report
from pages.components.frame import (
    draw_figure,
    draw_plot,
    errors_shown,
    object_heading,
    plain,
    rerun_after,
    show_problem,
)
from pages.components.job_progress import draw_job, status_badge
from pages.components.links import row_link
from pages.components.tables import draw_table
from pages.components.words import when

PAGE = routes.EVALUATIONS
MAX_LINK = 32
"""Characters of a checkpoint's name in a row of links."""


def draw_evaluation(ctx: Context, person: Person, evaluation: EvaluationView) -> None:
    """Draw an evaluation: progress or failure, scores, settings, items, comparisons; or the item of the address."""
    if is_item_open():
        draw_item_page(ctx, evaluation)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        object_heading(f"{evaluation.checkpoint} on {evaluation.benchmark}", width="content")
        status_badge(evaluation.status, ready="finished")
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        scoring = describe_scoring(evaluation.config, kind=evaluation.kind)
        st.caption(plain(f"{scoring}, {when(evaluation.created_at, now=ctx.now())}"), width="content")
        draw_subject(ctx, evaluation)
    if evaluation.is_active and evaluation.job_id:
        draw_job(ctx, person, evaluation.job_id, doing="Scoring items")
    elif evaluation.status is not Status.FINISHED:
        _draw_unfinished(ctx, person, evaluation)
    if evaluation.scores:
        _draw_scores(evaluation)
        draw_safety_report(ctx, evaluation)
        _draw_partner(ctx, evaluation)
        items, details = st.tabs(["Items", "Details and checks"], key="tab", bind="query-params")
        with items:
            draw_items(ctx, evaluation)
        with details:
            _draw_details(ctx, person, evaluation)
    else:
        if evaluation.status is Status.FINISHED:
            draw_safety_report(ctx, evaluation)
        st.subheader("Items", anchor=False)
        draw_items(ctx, evaluation)


def _draw_details(ctx: Context, person: Person, evaluation: EvaluationView) -> None:
    draw_evaluation_details(ctx, evaluation)
    if evaluation.endpoint is None:
        draw_check(ctx, person, evaluation)
    with st.expander("Settings", icon=":material/info:", expanded=True):
        draw_table(
            [{"Setting": name, "Value": value} for name, value in _how(evaluation)], key="eval_how", alt="Settings"
        )
    draw_downloads(ctx, evaluation)
    _draw_again(ctx, person, evaluation)


def _draw_unfinished(ctx: Context, person: Person, evaluation: EvaluationView) -> None:
    if evaluation.status is Status.FAILED:
        show_problem(evaluation.error.cause or "The evaluation failed.", evaluation.error.remedy)
    else:
        st.info("Stopped before the end. The items scored so far are below, without a score.", icon=":material/block:")
    if st.button("Run again", icon=":material/replay:", key="eval_retry"):
        with errors_shown():
            launched = launch_again(ctx, evaluation, person=person)
            st.switch_page(PAGE, query_params={"evaluation": launched.id})


def _draw_again(ctx: Context, person: Person, evaluation: EvaluationView) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Measure again", icon=":material/replay:", key="eval_again"):
            with errors_shown():
                launched = launch_again(ctx, evaluation, person=person, again=True)
                st.switch_page(PAGE, query_params={"evaluation": launched.id})
        words = "Evaluated again with the same settings, it returns this stored result."
        if evaluation.endpoint is not None and not evaluation.endpoint.is_own:
            words += " The model behind an address may change without notice: measure again to find out."
        st.caption(words, width="content")


def _draw_scores(evaluation: EvaluationView) -> None:
    if reason := void_reason_of(evaluation):
        remedy = "Use a checkpoint with a longer context, fewer examples, or another benchmark."
        st.error(plain(f"{reason} {remedy}"), icon=":material/error:")
    totals = [score for score in evaluation.totals if ":" not in score.metric]
    for at in range(0, len(totals), 4):
        columns = st.columns(max(3, min(4, len(totals))))
        for column, score in zip(columns, totals[at : at + 4], strict=False):
            with column.container(border=True, height="stretch"):
                average = evaluation.average_of(score.metric)
                draw_figure(
                    score_label(score.metric) + (f" ({average})" if average else ""),
                    score_text(score.metric, score.value),
                )
                st.caption(interval_text(score.metric, score.low, score.high) or "no interval")
    draw_subgroups(evaluation)
    if evaluation.config.task is not None:
        without = [
            score_label(name).lower() for name in evaluation.config.task.score_names if evaluation.score(name) is None
        ]
        if without:
            st.caption(plain(f"No item has a value of: {', '.join(without)}."))
    main = evaluation.main_score or evaluation.scores[0]
    words = f"{plural(main.n, evaluation.facts.unit.rstrip('s'))}. 95 % confidence intervals."
    chance = evaluation.facts.chance
    if chance is not None:
        words += f" Chance level: {percent(chance, digits=1)}, the mean share of the choices that are right."
    st.caption(plain(words))
    facts = evaluation.facts
    unjudged = facts.judge.missing if facts.judge else 0
    cut = caveats(
        lost_bytes=0,
        truncated=facts.truncated_items,
        missing=facts.missing_items,
        capped=facts.capped_items,
        unjudged=unjudged,
    )
    if cut and not void_reason_of(evaluation):
        st.caption(f":material/warning: {plain('; '.join(cut))}.")
    lost = facts.lost_bytes
    if lost:
        st.warning(
            f"The tokenizer can't encode {plural(lost, 'byte')} of this text, so they were not scored: bits per byte"
            " are too low and not comparable with other tokenizers.",
            icon=":material/warning:",
        )


def _how(evaluation: EvaluationView) -> list[tuple[str, str]]:
    settings, facts = evaluation.settings, evaluation.facts
    rows = [
        (
            "Rows",
            {"all": "all", "train": "training split", "val": "validation split"}.get(str(settings.get("split")), ""),
        ),
        ("Items sampled", f"{settings['limit']} with seed {settings.get('seed')}" if settings.get("limit") else "all"),
        ("Chat template", "used" if facts.used_chat_template else "not used"),
        (
            "Few-shot examples",
            str(settings.get("shots", 0)) if evaluation.kind is not EvaluationKind.PERPLEXITY else "",
        ),
        ("Windows", PREFIX_POLICY[str(settings["windows"])] if settings.get("windows") else ""),
        ("Context", f"{facts.context:,} tokens" if facts.context else ""),
        ("Precision", facts.number_format or ""),
        ("Device", {"cpu": "CPU", "cuda": "GPU"}.get(str(facts.device), "")),
        (
            "Engine",
            (
                f"{facts.engine} ({facts.engine_fallback})"
                if facts.engine and facts.engine_fallback
                else facts.engine or ""
            ),
        ),
        ("Begin token", "" if facts.bos is None else "before each text" if facts.bos else "none"),
        ("Weights", (facts.weights_hash or "")[:16]),
        ("Address", facts.url or ""),
        ("Model, as it names itself", facts.model or ""),
        ("Tokens", _tokens(facts)),
        ("Judge", f"{facts.judge.name}, {_tokens(facts.judge)}" if facts.judge else ""),
        ("Self-audit", _audit(facts.audit_items, facts.audit_difference)),
        *((f"Confidence interval, {score_label(s.metric).lower()}", s.method) for s in evaluation.scores),
        ("Fingerprint", evaluation.fingerprint[:16]),
    ]
    return [(name, value) for name, value in rows if value]


def _tokens(facts: EvaluationFacts | JudgeFacts) -> str:
    if not facts.prompt_tokens and not facts.completion_tokens:
        return ""
    price = "" if facts.price_usd is None else f", {format_usd(facts.price_usd, is_price=True)}"
    return f"{facts.prompt_tokens:,} prompt and {facts.completion_tokens:,} answer tokens{price}"


def _audit(items: int, difference: float | None) -> str:
    if not items:
        return ""
    return f"{plural(items, 'item')} computed again" + (
        "" if difference is None else f", largest difference {difference:.2g} nats"
    )


def _draw_partner(ctx: Context, evaluation: EvaluationView) -> None:
    others = {other.id: other for other in list_comparable(ctx, evaluation)}
    if not others:
        st.caption("Evaluate another checkpoint with the same settings to compare item by item.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if others:
            _draw_partner_choice(ctx, evaluation, others)
        if evaluation.kind is EvaluationKind.GENERATION:
            row_link("Judge the answers", page=PAGE, query={"judges": evaluation.id}, icon="gavel", key="eval_judge")


def _draw_partner_choice(ctx: Context, evaluation: EvaluationView, others: dict[str, EvaluationView]) -> None:
    key = f"eval_partner_{evaluation.id}"
    partner = choose_from("Compare with", others, words=lambda id_: others[id_].checkpoint, key=key, width=360)
    if st.button("Compare", icon=":material/compare_arrows:", key="eval_compare"):
        st.switch_page(PAGE, query_params=order_pair(ctx, others[partner], evaluation))


def draw_paired_comparison(ctx: Context, first_id: str, second_id: str) -> None:
    """Draw the paired comparison of two evaluations: difference, significance, and the items that changed; or the
    item of the address.
    """
    if is_item_open():
        draw_pair_page(ctx, open_pair(ctx, first_id, second_id))
        return
    comparison = compare(ctx, first_id, second_id)
    first, second = comparison.first.checkpoint, comparison.second.checkpoint
    noun = comparison.first.facts.unit.removesuffix("s")
    object_heading(f"{second} against {first}")
    way = f", which differ in {', '.join(comparison.differs)}" if comparison.differs else " in the same way"
    st.caption(plain(f"On {comparison.first.benchmark}, {plural(comparison.n, noun)} given to both{way}"))
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        if st.button("Swap", type="tertiary", icon=":material/swap_horiz:", key="eval_turn"):
            st.switch_page(PAGE, query_params={"first": second_id, "second": first_id})
        for side in (comparison.first, comparison.second):
            row_link(
                shorten(side.checkpoint, MAX_LINK),
                page=PAGE,
                query={"evaluation": side.id},
                key=f"side_{side.id}",
                help=side.checkpoint,
            )
    _draw_better(comparison)
    subjects = comparison.first.subject_id, comparison.second.subject_id
    differences = compare_across(ctx, *subjects)
    _draw_difference(comparison, noun=noun, adjusted=adjusted_text(comparison, differences))
    unlike = [f"{one}. Evaluate both with the same settings." for one in unlike_benchmarks(ctx, *subjects)]
    draw_across(comparison, differences, left_out=[*unlike, *void_benchmarks(ctx, *subjects)])
    st.subheader(
        "Largest differences" if comparison.first.kind is EvaluationKind.PERPLEXITY else "Items side by side",
        anchor=False,
    )
    draw_pairs(ctx, comparison)


def _draw_better(comparison: Comparison) -> None:
    """Draw which side is better; of scores that are none of the benchmark, why neither is."""
    sides = {"first": comparison.first, "second": comparison.second}
    void = [f"{side.checkpoint}: {reason}" for side in sides.values() if (reason := void_reason_of(side))]
    for one in void:
        st.error(plain(f"{one} It can't be compared."), icon=":material/error:")
    if void:
        return
    if comparison.better is None:
        st.info(
            "Not significant: the difference may be chance. More items would narrow the interval.",
            icon=":material/balance:",
        )
    else:
        winner = sides[comparison.better].checkpoint
        st.success(plain(f"{winner} is significantly better."), icon=":material/check_circle:")


def _draw_difference(comparison: Comparison, *, noun: str, adjusted: str) -> None:
    gap, metric = comparison.difference, comparison.metric
    columns = st.columns(3)
    with columns[0].container(border=True, height="stretch"):
        draw_figure(f"Difference in {score_label(metric).lower()}", score_text(metric, gap.value, signed=True))
        st.caption(interval_text(metric, gap.low, gap.high, signed=True) or "no interval")
    with columns[1].container(border=True, height="stretch"):
        draw_figure("Significance", p_text(comparison.p_value))
        st.caption(plain(f"{comparison.method}; significant if p < {ALPHA}. {adjusted}".strip()))
    with columns[2].container(border=True, height="stretch"):
        draw_figure("Better, worse, same", f"{comparison.wins} · {comparison.losses} · {comparison.ties}")
        st.caption(plain(f"{noun}s, as {comparison.second.checkpoint} did"))
    good = "left is better" if is_score_lower_better(metric) else "right is better"
    draw_plot(
        difference_figure(gap.value, gap.low, gap.high, metric=metric, better=good),
        key="eval_difference",
        alt="Difference with its interval, and zero",
    )
    notes = (
        [f"{plural(comparison.left_out, noun)} that only one of them has are left out."] if comparison.left_out else []
    )
    if comparison.clusters:
        notes.append(
            f"{noun.capitalize()}s about one passage count together: {plural(comparison.clusters, 'cluster')}."
        )
    if notes:
        st.caption(plain(" ".join(notes)))


def draw_subgroups(evaluation: EvaluationView) -> None:
    """Draw a table of the subgroups for each metric that has some; nothing for a benchmark without."""
    groups = set(evaluation.config.task.groups) if evaluation.config.task else set()
    for metric in dict.fromkeys(score.metric for score in evaluation.scores if score.subgroup):
        scores = {score.subgroup: score for score in evaluation.scores if score.subgroup and score.metric == metric}
        if len(scores) == 1:  # the score above
            continue
        subgroups = {name: score for name, score in scores.items() if name not in groups}
        with st.expander(
            f"{score_label(metric)} of {plural(len(subgroups), 'subgroup')}",
            icon=":material/account_tree:",
            key=f"subgroups_{metric}",
        ):
            rows = [_row(name, score, metric) for name, score in scores.items() if name in groups]
            rows += [_row(name, score, metric) for name, score in subgroups.items()]
            draw_table(
                [*_averages(list(subgroups.values()), metric), *rows],
                key=f"subgroups_{metric}",
                alt="Scores of subgroups",
            )
            means = "Macro: every subgroup counts the same. Micro: every item does. " if is_share(metric) else ""
            st.caption(f"{means}95 % confidence intervals.")


def _averages(scores: list[ScoreView], metric: str) -> list[dict[str, object]]:
    if not is_share(metric) or not scores or any(score.n < 1 for score in scores):
        return []
    estimates = [Estimate(s.value, s.stderr, s.low, s.high, s.n, s.method) for s in scores]
    averages = {"Macro average": macro_average(estimates), "Micro average": micro_average(estimates)}
    return [
        _row(name, ScoreView(metric, e.value, e.stderr, e.low, e.high, e.n, e.method), metric)
        for name, e in averages.items()
    ]


def _row(name: str, score: ScoreView, metric: str) -> dict[str, object]:
    interval = interval_text(metric, score.low, score.high)
    return {"Subgroup": name, "Score": score_text(metric, score.value), "95 % interval": interval, "Items": score.n}


def adjusted_text(comparison: Comparison, differences: Sequence[BenchmarkDifference]) -> str:
    """Return the shown comparison's adjusted p value: `Adjusted for 4 benchmarks (Holm): p = 0.120`."""
    shown = {comparison.first.id, comparison.second.id}
    own = next(
        (one for one in differences if {one.first.id, one.second.id} == shown and one.metric == comparison.metric), None
    )
    if own is None or own.p_adjusted is None or len(differences) < 2:
        return ""
    return f"Adjusted for {plural(len(differences), 'benchmark')} ({CORRECTION}): {p_text(own.p_adjusted)}"


def draw_across(comparison: Comparison, differences: Sequence[BenchmarkDifference], *, left_out: Sequence[str]) -> None:
    """Draw the differences on every benchmark that both checkpoints have, unless there is a single one, and those left
    out, with the reason.
    """
    if len(differences) > 1:
        _draw_differences(comparison, differences)
    for one in left_out:
        st.caption(plain(f"Left out: {one}"))


def _draw_differences(comparison: Comparison, differences: Sequence[BenchmarkDifference]) -> None:
    names = {"first": comparison.first.checkpoint, "second": comparison.second.checkpoint}
    st.subheader("All benchmarks", anchor=False)
    rows = [
        {
            "Benchmark": one.column.label,
            "Metric": score_label(one.metric),
            "Difference": score_text(one.metric, one.difference.value, signed=True),
            "95 % interval": (
                interval_text(one.metric, one.difference.low, one.difference.high, signed=True) or "no interval"
            ),
            "p": p_text(one.p_value),
            "Adjusted p": p_text(one.p_adjusted),
            "Better": names.get(one.better or "", "undecided"),
        }
        for one in differences
    ]
    draw_table(rows, key="eval_across", alt="Differences on every benchmark")
    st.caption(
        plain(
            f"{comparison.second.checkpoint} minus {comparison.first.checkpoint}. Adjusted p: {CORRECTION}'s correction"
            f" for {plural(len(differences), 'benchmark')}, which keeps the chance of any false claim below"
            f" {percent(ALPHA)}. Significant if adjusted p < {ALPHA}."
        )
    )


ENGINE = {"lm_eval": "lm-eval", "plain": "the plain engine"}
SAMPLE = 200
AGREES = 1e-4
"""Largest difference of a log-likelihood, in nats, up to which two engines agree."""


def draw_check(ctx: Context, person: Person, evaluation: EvaluationView) -> None:
    """Draw the newest check of an evaluation, one under way, and the button that starts another."""
    key = f"eval_check_job_{evaluation.id}"
    job_id = st.session_state.get(key)
    panel = st.expander(
        "Check against lm-eval", icon=":material/fact_check:", key="eval_check_panel", on_change="rerun"
    )
    if not panel.open and job_id is None:
        return
    with panel:
        if job_id is not None and get_job(ctx, job_id).status in ACTIVE:
            draw_job(ctx, person, job_id, doing="Computing the items by lm-eval")
            return
        if job_id is not None and (error := get_job(ctx, job_id).error):
            st.error(plain(f"{error.cause} {error.remedy}"), icon=":material/error:")
        check = read_check(ctx, evaluation.id)
        if check is not None:
            _draw_result(check)
        st.caption(
            f"Computes up to {SAMPLE} randomly drawn items by lm-evaluation-harness too, and compares them one by one."
        )
        if st.button("Check against lm-eval", key="eval_check", icon=":material/fact_check:"):
            with rerun_after():
                st.session_state[key] = launch_check(ctx, evaluation.id, person=person, items=SAMPLE).id


def _draw_result(check: EngineCheck) -> None:
    with st.container(horizontal=True):
        with st.container(border=True):
            largest = check.largest_difference
            draw_figure("Largest difference", "–" if largest is None else f"{largest:.2g} nats")
            st.caption(
                plain(
                    f"{plural(check.items, 'item')} by {check.engine} and by {ENGINE.get(check.against, check.against)}"
                )
            )
        with st.container(border=True):
            draw_figure("Other choice or answer", f"{check.other_choices}")
            st.caption(plain(f"{plural(check.other_values, 'item')} with another value of a metric"))
    if check.largest_difference is not None:
        agrees = check.largest_difference <= AGREES and not check.other_choices
        box, text = (
            (st.success, "Both engines agree.")
            if agrees
            else (st.warning, "The engines differ; see the items with the largest differences.")
        )
        box(text, icon=":material/check_circle:" if agrees else ":material/warning:")
    for item in check.shown[:5] if check.other_choices or check.other_values else ():
        difference = "" if item.difference is None else f", difference {item.difference:.2g} nats"
        st.caption(plain(f"Item {item.position + 1}{difference}{'' if item.same_choice else ', another choice'}"))


def draw_evaluation_details(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw the panels of a finished evaluation's calibration and contamination."""
    if evaluation.kind is EvaluationKind.MULTIPLE_CHOICE:
        panel = st.expander("Calibration", icon=":material/tune:", key="eval_calibration", on_change="rerun")
        if panel.open:
            with panel:
                _draw_calibration(read_calibration(ctx, evaluation.id), evaluation.id)
    # the training data of an endpoint are not known
    if evaluation.kind is not EvaluationKind.PERPLEXITY and evaluation.endpoint is None:
        panel = st.expander(
            "Contamination", icon=":material/content_copy:", key="eval_contamination", on_change="rerun"
        )
        if panel.open:
            with panel:
                _draw_contamination(check_contamination(ctx, evaluation), evaluation)


def _draw_calibration(result: ProbabilityCalibration | None, key: str) -> None:
    if result is None:
        st.caption(f"Calibration needs at least {MIN_ITEMS} items with log-likelihoods of their choices.")
        return
    columns = st.columns(2)
    with columns[0].container(border=True, height="stretch"):
        draw_figure("Expected calibration error", f"{100 * result.ece:.1f} points")
        st.caption(
            plain(
                f"A calibrated model shows {100 * result.ece_expected:.1f}, and up to {100 * result.ece_high:.1f}"
                " by chance (95 %)."
            )
        )
    with columns[1].container(border=True, height="stretch"):
        draw_figure("Brier score", f"{result.brier:.3f}")
        st.caption("Mean squared distance of confidence from outcome; lower is better.")
    draw_plot(reliability_figure(result), key=f"reliability_{key}", alt="Accuracy by confidence, with intervals")
    verdict = "Miscalibrated" if result.is_miscalibrated else "No miscalibration found"
    st.caption(
        plain(
            f"{verdict} on {plural(result.n, 'item')}. Confidence is the softmax of the choices' log-likelihoods. "
            "The band holds what a calibrated model shows by chance."
        )
    )


def reliability_figure(result: ProbabilityCalibration) -> go.Figure:
    """Return accuracy by confidence with Wilson intervals, the diagonal, and the band of a calibrated network."""
    confidence = [100 * one.confidence for one in result.bins]
    accuracy = [100 * one.accuracy for one in result.bins]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", line={"dash": "dot", "color": MUTED, "width": 1.5}, hoverinfo="skip"
    )
    figure.add_scatter(
        x=[*confidence, *confidence[::-1]],
        y=[*(100 * one.band_high for one in result.bins), *(100 * one.band_low for one in result.bins[::-1])],
        fill="toself",
        fillcolor=fade(MUTED, 0.2),
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=confidence,
        y=accuracy,
        mode="markers",
        marker={"color": ACCENT, "size": 9},
        error_y=error_bars(
            [(one.accuracy, one.low, one.high) for one in result.bins], scale=100.0, thickness=1.4, width=4
        ),
        customdata=[one.n for one in result.bins],
        hovertemplate="confidence %{x:.1f} %, accuracy %{y:.1f} %, %{customdata} items<extra></extra>",
    )
    figure.update_layout(
        height=320,
        margin=MARGIN,
        showlegend=False,
        xaxis={"title": "confidence, %", "range": [0, 101]},
        yaxis={"title": "accuracy, %", "range": [0, 101]},
    )
    return figure


def _draw_contamination(check: ContaminationCheck, evaluation: EvaluationView) -> None:
    if not check.checked:
        names = f" ({', '.join(check.unchecked)})" if check.unchecked else ""
        st.caption(
            plain(
                f"Not known: no report on the training data{names} has searched it for this version of the benchmark. "
                "Run a report on the dataset's page."
            )
        )
        return
    st.caption(
        plain(f"{plural(len(check.positions), 'item')} also in {', '.join(check.checked)}, by shared runs of 13 words.")
    )
    if check.unchecked:
        st.caption(plain(f"Not searched: {', '.join(check.unchecked)}."))
    if not check.is_complete:
        st.caption("The report lists only some of the items that it found, so the scores can't be split.")
    if check.scores is None:
        return
    metric, columns = evaluation.main_metric, st.columns(3)
    parts = (
        ("Clean items", check.scores.clean),
        ("Contaminated items", check.scores.contaminated),
        ("Difference", check.scores.difference),
    )
    for column, (title, estimate) in zip(columns, parts, strict=True):
        signed = title == "Difference"
        with column.container(border=True, height="stretch"):
            draw_figure(title, score_text(metric, estimate.value, signed=signed) if estimate else "–")
            if estimate:
                interval = interval_text(metric, estimate.low, estimate.high, signed=signed) or "no interval"
                st.caption(plain(f"{interval}, {plural(estimate.n, 'item')}" if not signed else interval))
    st.caption(plain(f"{score_label(metric)}. A higher score on contaminated items may be memory, not skill."))
