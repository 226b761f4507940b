"""Ratings against a published table, a second implementation, a sandwich written out vote by vote, and invariants."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import evalica
import numpy as np
import pytest
import scipy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backend.domain.battles.rating_table import ELO_PER_UNIT, RatingTable
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.votes import VoteRecord
from backend.errors import InvalidInput

WIKIPEDIA = {
    ("A", "B"): 2,
    ("A", "D"): 1,
    ("B", "A"): 3,
    ("B", "C"): 5,
    ("C", "B"): 3,
    ("C", "D"): 1,
    ("D", "A"): 4,
    ("D", "C"): 3,
}
WIKIPEDIA_STRENGTHS = {"A": 0.640, "B": 1.043, "C": 0.660, "D": 2.270}
SWAPPED = {"A": "B", "B": "A"}


def votes_of_wins(wins: dict[tuple[str, str], int]) -> list[VoteRecord]:
    """One vote per win, every vote on a prompt of its own."""
    pairs = [pair for pair, count in wins.items() for _ in range(count)]
    return [VoteRecord(f"p{place}", "r", winner, loser, "A") for place, (winner, loser) in enumerate(pairs)]


def simulated_votes(
    rng: np.random.Generator,
    *,
    prompts: int = 30,
    per_prompt: int = 8,
    prompt_sd: float = 0.0,
    rater_sd: float = 0.0,
    side: float = 0.0,
    strengths: tuple[float, ...] = (0.6, 0.0, -0.6),
) -> list[VoteRecord]:
    """Votes on contestants m0, m1, ...; each prompt and each rater shifts every contestant's strength by its own
    amount.
    """
    votes = []
    tastes = (
        rng.normal(0.0, rater_sd, (per_prompt, len(strengths))) if rater_sd else np.zeros((per_prompt, len(strengths)))
    )
    for prompt in range(prompts):
        shifted = np.array(strengths) + rng.normal(0.0, prompt_sd, len(strengths))
        for rater in range(per_prompt):
            a, b = rng.choice(len(strengths), size=2, replace=False)
            liking = shifted + tastes[rater]
            chance = 1 / (1 + math.exp(liking[b] - liking[a] - side))
            winner = "TIE" if rng.random() < 0.2 else "A" if rng.random() < chance else "B"
            votes.append(VoteRecord(f"p{prompt}", f"r{rater}", f"m{a}", f"m{b}", winner))
    return votes


vote_records = st.builds(
    lambda prompt, rater, pair, winner: VoteRecord(f"p{prompt}", f"r{rater}", pair[0], pair[1], winner),
    st.integers(0, 3),
    st.integers(0, 2),
    st.permutations(["x", "y", "z"]).map(lambda names: names[:2]),
    st.sampled_from(["A", "B", "TIE", "BOTH_BAD"]),
)
vote_lists = st.lists(vote_records, min_size=1, max_size=40)


def ratings_by_name(table: RatingTable) -> dict[str, float]:
    return {row.contestant: row.rating for row in table.ratings}


def test_wikipedias_table_gives_wikipedias_strengths() -> None:
    table = fit_ratings(votes_of_wins(WIKIPEDIA))
    for contestant, strength in WIKIPEDIA_STRENGTHS.items():
        assert math.exp((table.rating(contestant).rating - 1000) / ELO_PER_UNIT) == pytest.approx(strength, abs=6e-4)
    assert table.contestants == ("D", "B", "C", "A")
    assert not table.regularised


def test_ratings_with_ties_equal_evalicas() -> None:
    votes = simulated_votes(np.random.default_rng(5), strengths=(0.9, 0.3, 0.0, -0.4, -0.8))
    winners = {"A": evalica.Winner.X, "B": evalica.Winner.Y, "TIE": evalica.Winner.Draw}
    theirs = evalica.bradley_terry(
        [vote.a for vote in votes],
        [vote.b for vote in votes],
        [winners[vote.winner] for vote in votes],
        tolerance=1e-12,
        limit=10_000,
    ).scores
    logs = np.log(theirs)
    ours = ratings_by_name(fit_ratings(votes))
    for contestant, value in (logs - logs.mean()).items():
        assert ours[str(contestant)] == pytest.approx(1000 + ELO_PER_UNIT * value, abs=1e-4)


def correction(votes: list[VoteRecord], cluster_by: str, contestants: set[str]) -> float:
    """Variance of a mean of clusters over what the sandwich expects of it; a vote on both contestants counts twice."""
    if cluster_by == "none":
        return 1.0
    sizes: dict[str, int] = {}
    for vote in votes:
        group = vote.prompt if cluster_by == "prompt" else vote.rater
        sizes[group] = sizes.get(group, 0) + len(contestants & {vote.a, vote.b})
    shares = np.array([size / sum(sizes.values()) for size in sizes.values()])
    centred = np.eye(len(shares)) - shares  # each cluster's effect minus their weighted mean
    return float((shares**2).sum() / np.trace(centred.T @ np.diag(shares**2) @ centred))


@pytest.mark.parametrize("cluster_by", ["none", "prompt", "rater"])
def test_errors_equal_a_sandwich_written_out_vote_by_vote(cluster_by: str) -> None:
    votes = simulated_votes(np.random.default_rng(11), prompt_sd=0.5)
    table = fit_ratings(votes, cluster_by=cluster_by)  # type: ignore[arg-type]
    theta = {row.contestant: (row.rating - 1000) / ELO_PER_UNIT for row in table.ratings}
    names = sorted(theta)
    hessian, scores = np.zeros((3, 3)), {}
    for number, vote in enumerate(votes):
        x = np.array([float(name == vote.a) - float(name == vote.b) for name in names])
        chance = 1 / (1 + math.exp(theta[vote.b] - theta[vote.a]))
        hessian += chance * (1 - chance) * np.outer(x, x)
        group = {"none": str(number), "prompt": vote.prompt, "rater": vote.rater}[cluster_by]
        scores[group] = scores.get(group, np.zeros(3)) + ({"A": 1.0, "B": 0.0}.get(vote.winner, 0.5) - chance) * x
    meat = sum(np.outer(score, score) for score in scores.values())
    covariance = np.linalg.pinv(hessian) @ meat @ np.linalg.pinv(hessian)
    for row, name in enumerate(names):
        factor = correction(votes, cluster_by, {name})
        assert table.rating(name).stderr == pytest.approx(
            ELO_PER_UNIT * math.sqrt(factor * covariance[row, row]), rel=1e-6
        )
    expected = correction(votes, cluster_by, {"m0", "m1"}) * (
        covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    )
    assert table.pair("m0", "m1").stderr == pytest.approx(ELO_PER_UNIT * math.sqrt(expected), rel=1e-6)


def test_two_way_intervals_are_wider_than_those_by_prompt_where_raters_differ() -> None:
    votes = simulated_votes(np.random.default_rng(4), prompts=60, prompt_sd=0.8, rater_sd=0.8)
    by_prompt, two_way = fit_ratings(votes, cluster_by="prompt").pair("m0", "m2"), fit_ratings(votes)
    pair = two_way.pair("m0", "m2")
    assert pair.stderr > by_prompt.stderr
    assert "prompt (60) and rater (8)" in two_way.method
    assert 7 <= pair.df < by_prompt.df <= 59


@settings(deadline=None, max_examples=40)
@given(vote_lists)
def test_any_votes_give_finite_ratings_inside_their_intervals(votes: list[VoteRecord]) -> None:
    table = fit_ratings(votes, num_draws=200)
    for row in table.ratings:
        assert math.isfinite(row.low)
        assert row.low < row.rating < row.high
        assert 1 <= row.rank_low <= row.rank_high <= len(table.ratings)
        assert row.wins + row.losses + row.ties + row.both_bad == row.votes
    assert all(above.rating >= below.rating - 1e-6 for above, below in pairwise(table.ratings))
    assert sum(row.votes for row in table.ratings) == 2 * len(votes)


@settings(deadline=None, max_examples=40)
@given(vote_lists, st.permutations(["x", "y", "z"]))
def test_renaming_contestants_renames_the_ratings(votes: list[VoteRecord], order: list[str]) -> None:
    names = dict(zip(["x", "y", "z"], order, strict=True))
    before = fit_ratings(votes, num_draws=50)
    after = fit_ratings([replace(vote, a=names[vote.a], b=names[vote.b]) for vote in votes], num_draws=50)
    for row in before.ratings:
        renamed = after.rating(names[row.contestant])
        assert renamed.rating == pytest.approx(row.rating, abs=1e-5)
        assert renamed.stderr == pytest.approx(row.stderr, rel=1e-4, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(vote_lists)
def test_showing_the_other_side_first_changes_nothing_but_the_position_bias(votes: list[VoteRecord]) -> None:
    before = fit_ratings(votes, num_draws=50)
    after = fit_ratings(
        [VoteRecord(v.prompt, v.rater, v.b, v.a, SWAPPED.get(v.winner, v.winner)) for v in votes], num_draws=50
    )
    assert ratings_by_name(after) == pytest.approx(ratings_by_name(before), abs=1e-5)
    assert after.wins == before.wins
    if before.position_bias and after.position_bias:
        assert after.position_bias.value == pytest.approx(-before.position_bias.value, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(vote_lists)
def test_both_bad_counts_as_half_like_a_tie_and_keeps_its_count(votes: list[VoteRecord]) -> None:
    before = fit_ratings(votes, num_draws=50)
    after = fit_ratings(
        [replace(vote, winner="BOTH_BAD") if vote.winner == "TIE" else vote for vote in votes], num_draws=50
    )
    assert ratings_by_name(after) == pytest.approx(ratings_by_name(before))
    assert {row.contestant: row.both_bad for row in after.ratings} == {
        row.contestant: row.ties + row.both_bad for row in before.ratings
    }


@settings(deadline=None, max_examples=40)
@given(vote_lists)
def test_counting_every_vote_twice_fools_only_the_naive_interval(votes: list[VoteRecord]) -> None:
    naive = fit_ratings(votes, cluster_by="none", num_draws=50)
    assume(
        not naive.regularised
        and naive.position_bias
        and not any("number of votes alone" in note for note in naive.notes)
    )
    naive_twice = fit_ratings(votes * 2, cluster_by="none", num_draws=50)
    by_prompt, by_prompt_twice = (fit_ratings(rows, cluster_by="prompt", num_draws=50) for rows in (votes, votes * 2))
    assert ratings_by_name(naive_twice) == pytest.approx(ratings_by_name(naive), abs=1e-5)
    for row in naive.ratings:
        assert naive_twice.rating(row.contestant).stderr == pytest.approx(row.stderr / math.sqrt(2), rel=1e-4)
    if by_prompt.num_prompts > 1 and not any("number of votes alone" in note for note in by_prompt.notes):
        for row in by_prompt.ratings:
            assert by_prompt_twice.rating(row.contestant).stderr == pytest.approx(row.stderr, rel=1e-4)


def test_prompt_intervals_cover_where_naive_ones_do_not() -> None:
    rng = np.random.default_rng(8)
    hits = {"none": 0, "prompt": 0}
    for _ in range(150):
        votes = simulated_votes(rng, prompts=30, per_prompt=15, prompt_sd=1.5, strengths=(0.0, 0.0, 0.0))
        for cluster_by in ("none", "prompt"):
            pair = fit_ratings(votes, cluster_by=cluster_by, num_draws=20).pair("m0", "m1")  # type: ignore[arg-type]
            hits[cluster_by] += pair.low <= 0.0 <= pair.high
    assert hits["prompt"] / 150 > 0.9
    assert hits["none"] / 150 < 0.85


def test_position_bias_is_found_and_does_not_move_the_ratings() -> None:
    votes = simulated_votes(np.random.default_rng(6), prompts=400, side=0.5)
    table = fit_ratings(votes)
    assert table.position_bias is not None
    assert table.position_bias.low is not None
    # A fifth of the votes are ties, which pull the intercept towards 0.
    assert 0 < table.position_bias.low < table.position_bias.value < 0.5 * ELO_PER_UNIT
    assert table.pair("m0", "m2").difference == pytest.approx(0.8 * 1.2 * ELO_PER_UNIT, abs=60)


def test_position_bias_is_unknown_when_one_contestant_is_always_on_the_left() -> None:
    votes = [VoteRecord(f"p{place}", "r", "x", "y", "AB"[place % 2]) for place in range(10)]
    table = fit_ratings(votes)
    assert table.position_bias is None
    assert any("side" in note for note in table.notes)


def test_a_contestant_that_never_lost_is_rated_with_a_prior_and_the_table_says_so() -> None:
    votes = votes_of_wins({("x", "y"): 6, ("y", "z"): 3, ("z", "y"): 2})
    table = fit_ratings(votes)
    assert table.regularised
    assert "x lost no vote" in table.notes[0]
    assert "regularised" in table.method
    assert table.rating("x").rank_low == 1
    assert table.pair("x", "y").high - table.pair("x", "y").low > 500


def test_contestants_that_never_met_are_named() -> None:
    votes = votes_of_wins({("x", "y"): 2, ("y", "x"): 2, ("y", "z"): 1, ("z", "y"): 1, ("v", "w"): 2, ("w", "v"): 1})
    table = fit_ratings(votes)
    assert "v, w never met the rest" in table.notes[0]
    assert table.pair("x", "v").low < 0 < table.pair("x", "v").high


def test_only_ties_do_not_make_a_certain_rating() -> None:
    table = fit_ratings([VoteRecord(f"p{place}", "r", "x", "y", "TIE") for place in range(5)])
    assert table.rating("x").rating == pytest.approx(1000)
    assert table.rating("x").high > 1050
    assert any("number of votes alone" in note for note in table.notes)


def test_few_prompts_bring_a_warning_and_students_t() -> None:
    votes = simulated_votes(np.random.default_rng(3), prompts=6)
    table = fit_ratings(votes, cluster_by="prompt")
    assert any("Only 6 prompts" in note for note in table.notes)
    row = table.ratings[0]
    assert 4 < row.df <= 5
    assert (row.high - row.rating) / row.stderr == pytest.approx(scipy.stats.t.ppf(0.975, row.df))


def test_one_prompt_says_nothing_about_other_prompts() -> None:
    votes = [replace(vote, prompt="only") for vote in simulated_votes(np.random.default_rng(3))]
    by_prompt, two_way = fit_ratings(votes, cluster_by="prompt"), fit_ratings(votes)
    assert any("come from one prompt" in note for note in by_prompt.notes)
    assert "independent votes" in by_prompt.method
    assert any("come from one prompt" in note for note in two_way.notes)
    assert "clustered by rater (8)" in two_way.method


def test_anchor_moves_the_scale_but_no_difference() -> None:
    votes = simulated_votes(np.random.default_rng(9))
    free, anchored = fit_ratings(votes), fit_ratings(votes, anchor="m1", anchor_rating=1200)
    assert anchored.rating("m1").rating == pytest.approx(1200)
    assert anchored.rating("m0").rating - 1200 == pytest.approx(free.pair("m0", "m1").difference)
    assert anchored.rating("m0").stderr == pytest.approx(free.pair("m0", "m1").stderr)
    assert anchored.pair("m0", "m2") == free.pair("m0", "m2")


def test_rank_ranges_separate_the_clear_and_share_the_unclear() -> None:
    rng = np.random.default_rng(2)
    votes = simulated_votes(rng, prompts=300, strengths=(2.0, 0.02, 0.0, -2.0))
    ranks = {row.contestant: (row.rank_low, row.rank_high) for row in fit_ratings(votes).ratings}
    assert ranks == {"m0": (1, 1), "m1": (2, 3), "m2": (2, 3), "m3": (4, 4)}


def test_the_same_votes_and_seed_give_the_same_table() -> None:
    votes = simulated_votes(np.random.default_rng(1))
    assert fit_ratings(votes) == fit_ratings(list(votes))


def test_win_matrix_counts_every_vote_once() -> None:
    votes = [
        VoteRecord("p1", "r", "x", "y", "A"),
        VoteRecord("p1", "s", "y", "x", "A"),
        VoteRecord("p2", "r", "y", "x", "B"),
        VoteRecord("p2", "s", "x", "y", "BOTH_BAD"),
        VoteRecord("p3", "s", "x", "y", "TIE"),
        VoteRecord("p3", "s", "y", "z", "B"),
        VoteRecord("p4", "s", "y", "z", "A"),
    ]
    matrix = fit_ratings(votes).wins
    x, y, z = (matrix.contestants.index(name) for name in "xyz")
    assert (matrix.wins[x][y], matrix.wins[y][x], matrix.ties[x][y], matrix.both_bad[y][x]) == (2, 1, 1, 1)
    assert matrix.share(x, y) == pytest.approx(0.6)
    assert matrix.share(x, z) is None


@pytest.mark.parametrize("winner", ["tie (bothbad)", "x", "a", ""])
def test_an_unknown_label_is_refused_and_never_read_as_a_tie(winner: str) -> None:
    with pytest.raises(InvalidInput, match="Vote 2 has the unknown winner"):
        fit_ratings([VoteRecord("p", "r", "x", "y", "A"), VoteRecord("p", "r", "x", "y", winner)])


def test_invalid_votes_are_refused() -> None:
    vote = VoteRecord("p", "r", "x", "y", "A")
    with pytest.raises(InvalidInput, match="no votes to rate"):
        fit_ratings([])
    with pytest.raises(InvalidInput, match="compares 'x' with itself"):
        fit_ratings([replace(vote, b="x")])
    with pytest.raises(InvalidInput, match="anchor 'q' has no votes"):
        fit_ratings([vote], anchor="q")
    with pytest.raises(InvalidInput, match="No vote names the contestant 'q'"):
        fit_ratings([vote]).pair("x", "q")


def test_csv_of_votes_is_read_with_any_column_order_and_label_case() -> None:
    text = '\ufeffwinner,A,b,Prompt,rater,note\na,x,y,p1,r1,fine\nBoth bad,x,y,p2,r1,\n\ntie,"y, or z",x,p3,r2,\n'
    assert parse_votes(text) == [
        VoteRecord("p1", "r1", "x", "y", "A"),
        VoteRecord("p2", "r1", "x", "y", "BOTH_BAD"),
        VoteRecord("p3", "r2", "y, or z", "x", "TIE"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("prompt,a,b,winner\n", "lack the column rater"),
        ("q,w\n", "lack the columns prompt, rater, a, b, winner; the first line has q, w"),
        ("prompt,rater,a,b,winner\np,r,x,y,A\np,r,x,y,upper\n", "Line 3 has the unknown winner 'upper'"),
        ("prompt,rater,a,b,winner\np,r,x,,A\n", "Line 2 has no b"),
        ("prompt,rater,a,b,winner\np,r,x\n", "Line 2 has no b"),
        ("prompt,rater,a,b,winner\np,r,x,x,A\n", "Line 2 compares 'x' with itself"),
    ],
    ids=["empty", "one-missing", "all-missing", "label", "no-contestant", "short-line", "itself"],
)
def test_an_invalid_csv_names_the_line_or_the_column(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_votes(text)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        outcome = f"{len(parse_votes('prompt,rater,a,b,winner' + chr(10) + text))} votes"
    except InvalidInput as error:
        outcome = error.remedy
    assert outcome


def test_a_board_of_two_raters_says_once_how_far_its_intervals_go() -> None:
    """One of two raters always has half of the votes or more, and the two notes contradicted each other."""
    votes = [VoteRecord(f"p{n}", "r1" if n < 12 else "r2", "x", "y", "AB"[n % 2]) for n in range(22)]
    notes = fit_ratings(votes).notes
    assert [note for note in notes if "rater" in note] == [
        "Only 2 raters: intervals are tested from 3 raters on and may not hold; add raters. They are for other raters,"
        " too, so they are far wider than a verdict's for these."
    ]
