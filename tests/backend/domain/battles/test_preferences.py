"""Preference pairs from votes: agreement, what is left out, locked prompts, warnings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.battles.preferences import (
    Answers,
    CastVote,
    LeftOut,
    PairFacts,
    PreferenceRules,
    choose_locked,
    label_answers,
    length_difference,
    parse_rules,
    preference_warnings,
    resolve_preferences,
)
from backend.errors import InvalidInput


def cast(label: str, *, rater: str, prompt: str = "p", answers: tuple[str, str] = ("x", "y")) -> CastVote:
    return CastVote(vote=f"{rater}-{prompt}", rater=rater, prompt=prompt, answers=answers, label=label)


def ballots(labels: str) -> list[CastVote]:
    """A vote for each letter: A, B, T(ie) or N(either, both bad), by as many raters."""
    words = {"A": "A", "B": "B", "T": "TIE", "N": "BOTH_BAD"}
    return [cast(words[letter], rater=f"r{number}") for number, letter in enumerate(labels)]


def test_one_vote_for_an_answer_and_five_for_both_bad_give_no_pair() -> None:
    resolution = resolve_preferences(ballots("ANNNNN"))
    assert resolution.preferences == ()
    assert resolution.left_out == {LeftOut.DISAGREEMENT: 1}


@pytest.mark.parametrize(
    ("labels", "rules", "agreement"),
    [
        ("AAB", PreferenceRules(), 2 / 3),
        ("AABT", PreferenceRules(), None),
        ("AABT", PreferenceRules(ties="ignore"), 2 / 3),
        ("AAAN", PreferenceRules(), 3 / 4),
        ("AAAN", PreferenceRules(both_bad="exclude"), None),
        ("AN", PreferenceRules(both_bad="ignore"), 1.0),
        ("AAB", PreferenceRules(min_agreement=0.7), None),
        ("AA", PreferenceRules(min_raters=3), None),
        ("AT", PreferenceRules(min_agreement=0.5), None),
    ],
)
def test_rules_decide_which_pairs_are_kept(labels: str, rules: PreferenceRules, agreement: float | None) -> None:
    pairs = resolve_preferences(ballots(labels), rules).preferences
    assert [(pair.chosen, pair.agreement) for pair in pairs] == (
        [] if agreement is None else [("x", pytest.approx(agreement))]
    )


def test_one_rater_agrees_with_no_one() -> None:
    """The plan of a campaign with one rater said “Mean agreement 100 %”."""
    alone = [cast("A", rater="r", prompt="p"), cast("B", rater="r", prompt="q")]
    assert resolve_preferences(alone).agreement is None
    shared = [cast(label, rater=rater, prompt="s") for rater, label in (("r", "A"), ("s", "A"), ("t", "B"))]
    assert resolve_preferences([*alone, *shared]).agreement == pytest.approx(2 / 3)


def test_swapped_sides_of_other_raters_count_for_the_same_answer() -> None:
    votes = [cast("A", rater="r"), cast("B", rater="s", answers=("y", "x")), cast("B", rater="t")]
    (pair,) = resolve_preferences(votes).preferences
    assert (pair.chosen, pair.votes, pair.num_raters) == ("x", ("r-p", "s-p", "t-p"), 3)


def test_a_rater_counts_once_on_a_pair_by_the_newest_vote() -> None:
    votes = [cast("A", rater="r"), cast("B", rater="s"), cast("A", rater="s")]
    (pair,) = resolve_preferences(votes).preferences
    assert (pair.num_raters, pair.agreement) == (2, 1.0)


def test_equal_answers_other_categories_and_locked_prompts_give_no_pair() -> None:
    votes = [cast("A", rater="r", prompt=prompt, answers=(f"{prompt}1", f"{prompt}2")) for prompt in "abcd"]
    known = Answers(category={"a": "story", "b": "story", "c": "fact", "d": "story"}, text={"a1": "same", "a2": "same"})
    resolution = resolve_preferences(votes, PreferenceRules(categories=("story",)), answers=known, locked={"b"})
    assert [pair.prompt for pair in resolution.preferences] == ["d"]
    assert resolution.left_out == {LeftOut.IDENTICAL: 1, LeftOut.LOCKED: 1, LeftOut.CATEGORY: 1}


def test_a_prompt_keeps_its_pairs_with_the_most_agreement() -> None:
    votes = [cast("A", rater=rater, answers=("x", other)) for other in "yz" for rater in "rs"]
    votes += [cast("B", rater="t", answers=("x", "y")), cast("A", rater="t", answers=("x", "z"))]
    resolution = resolve_preferences(votes, PreferenceRules(max_pairs_per_prompt=1))
    assert [(pair.rejected, pair.agreement) for pair in resolution.preferences] == [("z", 1.0)]
    assert resolution.left_out == {LeftOut.PER_PROMPT: 1}


@given(st.lists(st.sampled_from("ABTN"), max_size=9), st.sampled_from(("against", "exclude", "ignore")))
def test_a_kept_pair_is_preferred_by_more_than_half_of_its_counted_votes_and_names_them_all(
    labels: list[str], both_bad: str
) -> None:
    rules = PreferenceRules(min_agreement=0.5, both_bad=both_bad)  # type: ignore[arg-type]
    for pair in resolve_preferences(ballots("".join(labels)), rules).preferences:
        assert pair.agreement > 0.5
        assert len(pair.votes) == pair.num_raters
        mirrored = resolve_preferences(ballots("".join(labels).translate(str.maketrans("AB", "BA"))), rules).preferences
        assert [(mirror.rejected, mirror.agreement) for mirror in mirrored] == [(pair.chosen, pair.agreement)]


def test_locked_prompts_do_not_depend_on_order_and_equal_prompts_lock_together() -> None:
    prompts = {f"p{number}": f"content {number // 2}" for number in range(20)}
    locked = choose_locked(prompts, PreferenceRules(locked_share=0.3))
    assert {prompts[prompt] for prompt in locked} == {prompts[f"p{n}"] for n in range(20) if f"p{n}" in locked}
    assert len(locked) == 6
    assert choose_locked(dict(reversed(prompts.items())), PreferenceRules(locked_share=0.3)) == locked
    assert choose_locked(prompts, PreferenceRules(locked_share=0.3, seed=2)) != locked


def test_without_a_share_at_most_half_of_the_prompts_are_locked() -> None:
    prompts = {f"p{number}": str(number) for number in range(6)}
    assert len(choose_locked(prompts, PreferenceRules(), lacking=-3)) == 0
    assert len(choose_locked(prompts, PreferenceRules(), lacking=2)) == 2
    assert len(choose_locked(prompts, PreferenceRules(), lacking=6)) == 3
    assert choose_locked(prompts, PreferenceRules(locked_prompts=("p4", "gone"))) == {"p4"}


def test_rules_are_read_from_yaml_and_name_the_nearest_field() -> None:
    rules = parse_rules("min_agreement: 0.75\nmin_raters: 2\nboth_bad: exclude")
    assert rules == PreferenceRules(min_agreement=0.75, min_raters=2, both_bad="exclude")
    assert parse_rules(rules.to_yaml()) == rules
    assert parse_rules("") == PreferenceRules()
    with pytest.raises(InvalidInput, match="min_raters"):
        parse_rules("min_rater: 2")
    with pytest.raises(InvalidInput, match="min_agreement"):
        parse_rules("min_agreement: 0.3")


def facts(*gaps: int, category: str = "") -> list[PairFacts]:
    return [
        PairFacts(
            prompt=f"{category}{number}", chosen_tokens=50 + gap, rejected_tokens=50, agreement=0.9, category=category
        )
        for number, gap in enumerate(gaps)
    ]


def test_the_length_difference_is_the_t_interval_of_the_gaps() -> None:
    """Gaps 1..5: mean 3, standard error sqrt(2.5 / 5), t(4) = 2.776."""
    estimate = length_difference(facts(1, 2, 3, 4, 5))
    assert estimate is not None
    assert (estimate.value, estimate.low) == (3.0, pytest.approx(3 - 2.7764 * (2.5 / 5) ** 0.5, abs=1e-3))


def test_warnings_name_size_length_and_unbalanced_categories() -> None:
    kinds = {
        warning.kind: warning.text
        for warning in preference_warnings([*facts(*[20, 21, 22] * 4), *facts(20, category="rare")])
    }
    assert set(kinds) == {"size", "length", "categories"}
    assert "tokens longer than rejected" in kinds["length"]
    assert "13 pairs, fewer than 100" in kinds["size"]
    assert preference_warnings(facts(*[-5, 5] * 60)) == ()
    assert preference_warnings([]) == ()


def test_answers_are_labelled_by_ratings_first_then_by_a_majority_of_both_bad() -> None:
    votes = [cast("BOTH_BAD", rater="r"), cast("BOTH_BAD", rater="s"), cast("A", rater="t")]
    votes += [
        cast("BOTH_BAD", rater="r", prompt="q", answers=("u", "v")),
        cast("A", rater="s", prompt="q", answers=("u", "v")),
    ]
    assert label_answers({"x": [5, 4], "z": [3]}, votes) == {"x": True, "y": False}
