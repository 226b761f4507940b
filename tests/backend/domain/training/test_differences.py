"""What differs between runs is said in the field's own short words."""

from __future__ import annotations

from backend.domain.training.config import RunConfig
from backend.domain.training.differences import label_runs, list_differences, state_difference
from tests.support.run_world import make_config


def vary(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update=changes)


def test_a_copy_states_what_it_changes_in_the_fields_words() -> None:
    config = make_config(learning_rate=5e-5)
    assert state_difference(config, vary(config, learning_rate=1e-4)) == "LR 1e-4"
    assert state_difference(config, vary(config, max_steps=6000, weight_decay=0.2)) == "6,000 steps, weight decay 0.2"
    assert state_difference(config, vary(config, name="other")) == ""


def test_what_only_measures_is_stated_where_nothing_else_differs() -> None:
    config = make_config()
    assert state_difference(config, vary(config, seed=4, eval_every=3)) == "seed 4"
    assert state_difference(config, vary(config, eval_every=3)) == "evaluate every 3"


def test_a_text_is_stated_on_one_line_without_what_can_not_be_seen() -> None:
    config = make_config()
    prompts = vary(config, sample_prompts=("Once\nupon\ta time\u202e\0",))
    assert state_difference(config, prompts) == "Once upon a time"


def test_settings_without_effect_do_not_differ() -> None:
    config = make_config()
    assert list_differences([config, vary(config, lora=config.lora.model_copy(update={"rank": 32}))]) == []


def test_an_adapter_is_no_difference_from_a_run_without_one() -> None:
    """The form of a copy said “Rank 8, now 16” of a run that had no adapter."""
    full = make_config(objective="sft", base="b", architecture=None, tokenizer=None)
    lora = vary(full, method="lora", lora=full.lora.model_copy(update={"rank": 16}))
    assert [each.label for each in list_differences([full, lora])] == ["Method"]
    other = vary(lora, lora=full.lora.model_copy(update={"rank": 32}))
    differences = {each.label: each.texts for each in list_differences([full, lora, other])}
    assert differences["Rank"] == ("–", "16", "32")


def test_rules_of_rewards_are_told_with_what_they_read() -> None:
    """The form of a copy showed {'kind': 'length', 'weight': 1.0, 'pattern': '', 'target': 8}."""

    def rewarded(*rules: dict[str, object]) -> RunConfig:
        grpo = {"rewards": list(rules), "group_size": 2, "max_new_tokens": 8}
        return make_config(objective="grpo", base="b", architecture=None, tokenizer=None, grpo=grpo)

    both = rewarded({"kind": "regex", "pattern": "[0-9]+"}, {"kind": "exact", "weight": 0.5})
    (difference,) = list_differences([rewarded({"kind": "length", "target": 1200, "pattern": "unread"}), both])
    assert difference.texts == ("length 1,200 tokens", "regex “[0-9]+”; exact × 0.5")


def test_an_imported_run_has_a_dash_and_no_difference() -> None:
    config = make_config(learning_rate=0.01)
    (difference,) = list_differences([config, None, vary(config, learning_rate=0.02)])
    assert (difference.label, difference.texts) == ("Learning rate", ("0.01", "–", "0.02"))
    assert list_differences([config, None]) == []


def test_a_legend_names_runs_by_what_differs_if_that_tells_them_apart() -> None:
    config = make_config(learning_rate=0.01)
    others = [vary(config, learning_rate=0.02), vary(config, learning_rate=0.02, seed=2)]
    assert label_runs(["a", "b", "c"], [config, *others]) == ["LR 0.01, seed 1", "LR 0.02, seed 1", "LR 0.02, seed 2"]
    assert label_runs(["a", "b", "c"], [config, *others[:1], others[0]]) == ["a", "b", "c"]
    assert label_runs(["a", "b"], [config, None]) == ["a", "b"]
    far = vary(others[1], weight_decay=0.3, max_steps=7, grad_clip=2.0)
    assert label_runs(["a", "b"], [config, far]) == ["a", "b"], "by more settings than a legend holds"
