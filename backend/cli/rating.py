"""`roundhouse rating`: ratings, verdicts and agreement from a file of votes; named, hashed boards, and the proof that
one is unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.battles.vote_columns import ColumnOption, WinnerOption, read_column_option, read_winners
from backend.cli.exit_status import FAILED
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, command, emit
from backend.db.base import utc_now
from backend.domain.attributes import attributes_of
from backend.domain.battles.agreement import JudgeAgreement, RaterAgreement, judge_agreement, vote_agreement
from backend.domain.battles.frozen import Verification, count_cast, document_digest, freeze_document, verify_document
from backend.domain.battles.inference.plans import PlanOption, plan_options
from backend.domain.battles.inference.prediction_powered import assisted_share
from backend.domain.battles.rating_table import RatingOptions, RatingTable
from backend.domain.battles.ratings import rate
from backend.domain.battles.verdicts import PairVerdict, pair_verdict, verdict_path
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.vote_files.tables import read_vote_file
from backend.domain.battles.votes import VoteRecord
from backend.domain.statistics.estimates import Estimate
from backend.domain.wording import percent, plural
from backend.errors import InvalidInput, NotFound
from backend.infra.files.paths import text_file
from backend.services.battles.frozen_boards import export_board, freeze_board, get_frozen_board, program_version
from backend.services.battles.views import resolve_campaign
from backend.services.context import LOCAL


@command
@model_options(RatingOptions, only=("method", "cluster_by", "control", "reweight"))
def freeze(
    source: Annotated[str, typer.Argument(help="A campaign's name or id, or a file of votes.")],
    name: Annotated[str, typer.Option(help="Name of the board.")],
    to: Annotated[Path | None, typer.Option(help="Write the board to this file; needed for a file of votes.")] = None,
    column: ColumnOption = None,
    winner: WinnerOption = None,
    *,
    options: Mapping[str, object],
) -> None:
    """Freeze a leaderboard with its votes, options, seed and version."""
    chosen = RatingOptions.of(**options)
    if Path(source).is_file():
        if to is None:
            raise InvalidInput(
                "A board of a file is not stored here.", remedy="Name a file to write: --to board.json.", field="to"
            )
        at, version = utc_now(), program_version()
        text = Path(source).read_text(encoding="utf-8-sig")
        votes = parse_votes(text, mapping=read_column_option(column), labels=read_winners(winner))
        document, _ = freeze_document(votes, chosen, campaign=Path(source).name, name=name, at=at, version=version)
        board_id, digest = None, document_digest(document)
        text = json.dumps({"digest": digest, "document": document}, ensure_ascii=False)
    else:
        ctx = get_context()
        board = freeze_board(ctx, resolve_campaign(ctx, source).id, name=name, options=chosen, person=LOCAL)
        board_id, digest, document, text = board.id, board.digest, board.document, export_board(board, form="json")
    if to is not None:
        to.write_text(text, encoding="utf-8")
    result = {
        "board": board_id,
        "name": name,
        "digest": digest,
        "votes": count_cast(document),
        "file": str(to) if to else None,
    }
    emit(
        {**result, "ratings": document["ratings"]},
        text=f"{name}: {plural(count_cast(document), 'vote')}, SHA-256 {digest}",
    )


@command
def verify(
    board: Annotated[str, typer.Argument(help="A file that `rating freeze` wrote, or the id of a stored board.")],
) -> None:
    """Compute a frozen board's hash and ratings again. Exit status 1 if they differ."""
    document, digest = _read_board(board)
    result = verify_document(document, digest=digest, version=program_version())
    emit({"passed": result.passed, **asdict(result)}, text=_describe(result))
    if not result.passed:
        raise typer.Exit(FAILED)


def _read_board(board: str) -> tuple[dict[str, object], str | None]:
    file = Path(board)
    if not file.is_file():
        if file.suffix:
            raise NotFound(f"There is no file {board}.")
        stored = get_frozen_board(get_context(), board)
        return stored.document, stored.digest
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["document"]), content.get("digest")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{file.name} holds no frozen board.", remedy="Give a file that `rating freeze` wrote."
        ) from error


def _describe(result: Verification) -> str:
    if result.passed:
        return f"Verified: {plural(result.num_votes, 'vote')} give the same ratings, SHA-256 {result.digest}."
    lines = [f"The hash is {result.digest}, not the stored one."] if result.digest_matches is False else []
    return "\n".join([*lines, *result.differences])


ROW_KEYS = (
    "contestant",
    "rating",
    "low",
    "high",
    "rank_low",
    "rank_high",
    "stderr",
    "votes",
    "wins",
    "losses",
    "ties",
    "both_bad",
    "df",
)


@command
@model_options(RatingOptions)
def fit(
    votes: Annotated[
        Path,
        typer.Argument(
            help="CSV or JSON lines with the columns prompt,rater,a,b,winner (A, B, TIE or BOTH_BAD), or MT-bench's "
            "question_id,judge,model_a,model_b,winner (model_a, model_b, tie, tie (inconsistent) or tie (bothbad))."
            " Optional columns: "
            "category, probability, length_a, length_b, and headers, lists and bold of both sides."
        ),
    ],
    column: ColumnOption = None,
    winner: WinnerOption = None,
    *,
    options: Mapping[str, object],
) -> None:
    """Rate contestants by Bradley-Terry, Davidson or Rao-Kupper, with intervals clustered by prompt and rater."""
    rating_options = RatingOptions.of(**options)
    with text_file(votes):
        read = read_vote_file(votes.read_bytes(), mapping=read_column_option(column), labels=read_winners(winner))
        table = rate(read, rating_options)
    emit(rating_data(table), text=rating_text(table))


def rating_data(table: RatingTable) -> dict[str, object]:
    """Return a table as the JSON document of `rating fit --json`. Endless degrees of freedom are null."""
    rows = [{key: getattr(row, key) for key in ROW_KEYS} for row in table.ratings]
    if table.controls:
        for entry, row in zip(rows, table.ratings, strict=True):
            entry["uncontrolled"] = row.uncontrolled
    return {
        "ratings": rows,
        "position_bias": asdict(table.position_bias) if table.position_bias else None,
        "method": table.options.method,
        "description": table.method,
        "log_likelihood": table.log_likelihood,
        "tie_parameter": table.tie_parameter,
        "fits": [asdict(row) for row in table.fits],
        "controls": [asdict(row) for row in table.controls],
        "differences": [asdict(row) for row in table.neighbours()],
        "options": table.options.model_dump(mode="json"),
        "notes": list(table.notes),
        "regularised": table.regularised,
        "votes": table.num_votes,
        "prompts": table.num_prompts,
        "raters": table.num_raters,
    }


def rating_text(table: RatingTable) -> str:
    """Return a table as aligned lines."""
    width = max(len("contestant"), *(len(row.contestant) for row in table.ratings))
    lines = [
        f"{'rank':<7}{'contestant':<{width}}  {'rating':>7}  {'interval':>15}  {'votes':>6}  {'above the next by':>22}"
    ]
    gaps = [f"{table.shown_gap(gap.first, gap.second)} ({gap.low:.0f} to {gap.high:.0f})" for gap in table.neighbours()]
    for row, gap in zip(table.ratings, [*gaps, ""], strict=True):
        rank = f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}-{row.rank_high}"
        interval = f"{row.low:.0f} to {row.high:.0f}"
        line = f"{rank:<7}{row.contestant:<{width}}  {row.rating:>7.0f}  {interval:>15}  {row.num_cast:>6}  {gap:>22}"
        lines.append(line.rstrip())
    bias = table.position_bias
    extra = [f"Side A gains {bias.value:+.0f} points ({bias.low:+.0f} to {bias.high:+.0f})."] if bias else []
    extra += [
        f"{feature.capitalize()}: {effect.value:+.0f} points per standard deviation ({effect.low:+.0f} to"
        f" {effect.high:+.0f})."
        for feature, effect in ((row.feature, row.effect) for row in table.controls)
    ]
    extra += [
        f"{row.method}: log-likelihood {row.log_likelihood:,.1f}, order {row.kendall_tau:.3f} (Kendall's tau)"
        for row in table.fits
    ]
    return "\n".join([*lines, table.method, *extra, *table.notes])


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
    records = _read_votes(votes, column, winner)
    people = [vote for vote in records if vote.rater != judge and (raters is None or fnmatchcase(vote.rater, raters))]
    human = vote_agreement(people)
    judged = None
    if judge is not None:
        judged = judge_agreement([*people, *(vote for vote in records if vote.rater == judge)], judge)
    emit(_agreement_document(human, judged), text="\n".join(_agreement_lines(human, judged)))


def _agreement_document(human: RaterAgreement, judged: JudgeAgreement | None) -> dict[str, object]:
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


def _agreement_lines(human: RaterAgreement, judged: JudgeAgreement | None) -> list[str]:
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
    records = _read_votes(votes, column, winner)
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
    document = _verdict_data(result, plan)
    if path:
        document["path"] = verdict_path(people, first, second)
    sentences = [result.sentence]
    if assisted is not None:
        document["assisted"] = asdict(assisted)
        sentences.append(
            f"With {judge}'s verdicts, at one look: {_interval(assisted.share)} (correlation"
            f" {assisted.correlation:.2f}, {percent(assisted.votes_saved)} of the votes saved)."
        )
    emit(document, text="\n".join([*sentences, "", *_plan_lines(plan)]))


def _verdict_data(result: PairVerdict, plan: tuple[PlanOption, ...]) -> dict[str, object]:
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


def _plan_lines(plan: tuple[PlanOption, ...]) -> list[str]:
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


def _read_votes(file: Path, columns: list[str] | None, winners: list[str] | None) -> list[VoteRecord]:
    with text_file(file):
        text = file.read_text(encoding="utf-8-sig")
        return parse_votes(text, mapping=read_column_option(columns), labels=read_winners(winners))


app = CommandGroup(no_args_is_help=True)
for verb in (verdict, agreement, fit, freeze, verify):
    app.command(verb.__name__)(verb)
