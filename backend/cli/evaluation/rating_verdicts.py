"""`roundhouse rating verdict` and `agreement`: conclusions from a file of votes, without a database."""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.battles.vote_columns import ColumnOption, WinnerOption, read_column_option, read_winners
from backend.cli.output import command, emit
from backend.domain.attributes import attributes_of
from backend.domain.battles.agreement import JudgeAgreement, RaterAgreement, judge_agreement, vote_agreement
from backend.domain.battles.inference.plans import PlanOption, plan_options
from backend.domain.battles.inference.prediction_powered import assisted_share
from backend.domain.battles.verdicts import PairVerdict, pair_verdict, verdict_path
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.votes import VoteRecord
from backend.domain.statistics.estimates import Estimate
from backend.domain.wording import percent
from backend.errors import InvalidInput
from backend.infra.files.paths import text_file

VotesFile = Annotated[Path, typer.Argument(help="CSV or JSON lines, columns as of `rating fit`.")]


@command
def agreement(
    votes: VotesFile,
    judge: Annotated[
        str | None, typer.Option(help="Rater to compare with the others: a judge. Its votes are left out of theirs.")
    ] = None,
    raters: Annotated[
        str | None, typer.Option(help="Count only raters whose name matches, such as 'expert_*'.")
    ] = None,
    column: ColumnOption = None,
    winner: WinnerOption = None,
) -> None:
    """Say how often raters agree, with and without ties, and how often a judge agrees with them. Both bad counts as a
    tie.
    """
    records = _read(votes, column, winner)
    people = [vote for vote in records if vote.rater != judge and (raters is None or fnmatchcase(vote.rater, raters))]
    human = vote_agreement(people)
    judged = None
    if judge is not None:
        judged = judge_agreement([*people, *(vote for vote in records if vote.rater == judge)], judge)
    emit(agreement_document(human, judged), text="\n".join(agreement_lines(human, judged)))


def agreement_document(human: RaterAgreement, judged: JudgeAgreement | None) -> dict[str, object]:
    """Return agreement as the JSON document of `rating agreement --json`. `n` counts pairs of votes, at the top items
    with two raters.
    """
    document: dict[str, object] = {
        "human_human": _shares(human),
        "judge_human": None,
        "alpha": human.alpha.value if human.alpha else None,
        "ac1": human.ac1.value if human.ac1 else None,
        "n": human.num_items,
        "votes": human.num_votes,
        "raters": human.num_raters,
        "intervals": {"alpha": _estimate(human.alpha), "ac1": _estimate(human.ac1)},
    }
    if judged is not None:
        extra = {
            "kappa": _estimate(judged.kappa),
            "ac1": _estimate(judged.ac1),
            "flips": _estimate(judged.flips),
            "n": judged.num_items,
        }
        document["judge_human"] = {"judge": judged.judge, **_shares(judged), **extra}
    return document


def _shares(result: RaterAgreement | JudgeAgreement) -> dict[str, object]:
    both = {
        "ties": (result.percent_agreement, result.num_pairs),
        "non_tie": (result.without_ties, result.num_decisive_pairs),
    }
    return {
        name: {
            "agreement": estimate.value if estimate else None,
            "low": estimate.low if estimate else None,
            "high": estimate.high if estimate else None,
            "n": number,
        }
        for name, (estimate, number) in both.items()
    }


def _estimate(estimate: Estimate | None) -> dict[str, object] | None:
    return asdict(estimate) if estimate else None


def agreement_lines(human: RaterAgreement, judged: JudgeAgreement | None) -> list[str]:
    """Return agreement as lines, a judge's beside the raters' own, which is its ceiling."""
    lines = [f"{'':<12}{'with ties':>24}{'pairs':>8}{'without ties':>24}{'pairs':>8}"]
    rows: list[tuple[str, RaterAgreement | JudgeAgreement]] = [("raters", human)] + (
        [("judge", judged)] if judged else []
    )
    for name, row in rows:
        shares = (row.percent_agreement, row.num_pairs), (row.without_ties, row.num_decisive_pairs)
        lines.append(f"{name:<12}" + "".join(f"{_interval(estimate):>24}{number:>8,}" for estimate, number in shares))
    lines.append(
        f"Raters: Krippendorff's alpha {_interval(human.alpha, digits=3)}, AC1 {_interval(human.ac1, digits=3)}"
    )
    if judged:
        flips = f", contradicts itself when sides are swapped {_interval(judged.flips)}" if judged.flips else ""
        lines.append(f"Judge: kappa {_interval(judged.kappa, digits=3)}, AC1 {_interval(judged.ac1, digits=3)}{flips}")
    return [*lines, "95 % intervals, by prompt"]


def _interval(estimate: Estimate | None, *, digits: int = 0) -> str:
    if estimate is None:
        return "-"

    def write(value: float) -> str:
        return f"{value:.{digits}f}" if digits else percent(value, digits=1)

    return f"{write(estimate.value)}{estimate.bracketed(write)}"


@command
def verdict(
    votes: VotesFile,
    first: Annotated[str, typer.Option(help="Contestant to judge.")],
    second: Annotated[str, typer.Option(help="Contestant to judge it against.")],
    gap: Annotated[float, typer.Option(help="Smallest gap worth acting on, in Elo points.")] = 35.0,
    alpha: Annotated[float, typer.Option(help="Chance of a false winner, ever, over all pairs.")] = 0.05,
    pairs: Annotated[int, typer.Option(help="Pairs judged at once; they share alpha (Bonferroni).")] = 1,
    raters: Annotated[int, typer.Option(help="Raters per prompt of the plan's second design.")] = 3,
    judge: Annotated[
        str | None, typer.Option(help="Rater that is a judge: no vote counts, but the share it helps to estimate.")
    ] = None,
    judge_correlation: Annotated[
        float | None, typer.Option(help="A judge's correlation with raters, for the plan.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds per vote, for the plan; 37 without it.")] = None,
    path: Annotated[
        bool, typer.Option("--path", help="Add the e-value after each vote of the pair, in file order.")
    ] = False,
    column: ColumnOption = None,
    winner: WinnerOption = None,
) -> None:
    """Say whether FIRST is better than SECOND, worse, or undecided; valid however often it is asked. Votes are in the
    order cast.
    """
    records = _read(votes, column, winner)
    names = {name for record in records for name in (record.a, record.b)}
    for field, name in (("first", first), ("second", second)):
        if name not in names:
            some = ", ".join(sorted(names)[:10])
            raise InvalidInput(f"No vote is on {name!r}.", remedy=f"The file's contestants are {some}.", field=field)
    people = [record for record in records if record.rater != judge]
    assisted = assisted_share(records, first, second, judge=judge) if judge is not None else None
    if assisted is not None and judge_correlation is None and abs(assisted.correlation) < 1:
        judge_correlation = assisted.correlation
    result = pair_verdict(
        people, first, second, smallest_gap_elo=gap, alpha=alpha, num_pairs=pairs, seconds_per_vote=seconds
    )
    plan = plan_options(
        spread=result.spread,
        alpha=alpha,
        num_pairs=pairs,
        raters_per_prompt=raters,
        judge_correlation=judge_correlation,
        seconds_per_vote=seconds,
        leaning=result.leaning,
        votes_per_rater=result.decisive_per_rater,
        cast_per_rater=result.votes_per_rater,
    )
    document = verdict_data(result, plan)
    if path:
        document["path"] = verdict_path(people, first, second)
    sentences = [result.sentence]
    if assisted is not None:
        document["assisted"] = asdict(assisted)
        sentences.append(
            f"With {judge}'s verdicts, at one look: {_interval(assisted.share)} (correlation"
            f" {assisted.correlation:.2f}, {percent(assisted.votes_saved)} of the votes saved)."
        )
    emit(document, text="\n".join([*sentences, "", *plan_lines(plan)]))


def verdict_data(result: PairVerdict, plan: tuple[PlanOption, ...]) -> dict[str, object]:
    """Return a verdict as the JSON document of `rating verdict --json`."""
    counts = ("votes", "prompts", "raters", "prompts_won", "prompts_lost", "ties", "both_bad", "identical")
    keys = (*counts, "votes_needed", "prompts_needed", "raters_needed")
    return {
        **attributes_of(
            result, "first", "second", "outcome", "for_these_raters", "e_value", "rater_e_value", "threshold"
        ),
        "share": result.share.value,
        "low": result.share.low,
        "high": result.share.high,
        "level": result.level,
        "method": result.share.method,
        **{key: getattr(result, key) for key in keys},
        "needed_at_gap": asdict(result.needed_at_gap) if result.needed_at_gap else None,
        **attributes_of(result, "rests_on", "sentence"),
        "plan": [asdict(option) for option in plan],
    }


def plan_lines(plan: tuple[PlanOption, ...]) -> list[str]:
    """Return the choices of a plan as aligned lines."""
    width = max(len(option.label) for option in plan)
    head = f"{'gap':>5}  {'design':<{width}}  {'votes':>7}  {'prompts':>7}  {'raters':>6}  {'hours':>6}  looks"
    return [
        head,
        *(
            f"{option.gap_elo:>5g}  {option.label:<{width}}  {option.votes:>7,}  {option.prompts:>7,}  "
            f"{option.raters or '':>6}  {option.minutes / 60:>6.1f}  {'any time' if option.any_time else 'once'}"
            for option in plan
        ),
    ]


def _read(file: Path, columns: list[str] | None, winners: list[str] | None) -> list[VoteRecord]:
    with text_file(file):
        text = file.read_text(encoding="utf-8-sig")
        return parse_votes(text, mapping=read_column_option(columns), labels=read_winners(winners))
