"""What a change would do, told before it is made: a short version exactly as the job does it, a long one within the
error that is said.
"""

from __future__ import annotations

import pytest

from backend.domain.data.versions.changes import (
    Change,
    DropDuplicates,
    DropRows,
    Filter,
    KeepSample,
    Merge,
    Resplit,
    RowCondition,
)
from backend.errors import InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.data import change_preview
from backend.services.data.change_preview import preview_change
from backend.services.data.versions import derive_version
from tests.support.data.dataset_world import done, imported

ROWS = [{"instruction": f"Say {n % 45}.", "output": f"{'word ' * (n % 9 + 1)}{n % 45}"} for n in range(90)]
LONG = RowCondition(field="completion", test="at_least", value=30)


@pytest.mark.parametrize(
    "change",
    [
        Filter(conditions=(LONG,)),
        Filter(conditions=(LONG, RowCondition(test="contains", value="say 1")), keep=False),
        DropDuplicates(),
        DropDuplicates(loose=True),
        KeepSample(num_rows=31, seed=5),
        DropRows(train=(0, 3, 4), val=(1,)),
        Merge(other="others"),
    ],
    ids=lambda change: change.change,
)
def test_a_short_version_is_told_as_the_job_makes_it(ctx: Context, change: Change) -> None:
    first = imported(ctx, "sayings", ROWS)
    imported(ctx, "others", [*ROWS[:20], *({"instruction": f"New {n}", "output": "x"} for n in range(30))])
    preview = preview_change(ctx, first, change)
    made = done(ctx, derive_version(ctx, first.id, change=change, person=LOCAL))
    assert preview.after is not None
    assert [(count.value, count.is_exact) for count in preview.after] == [
        (made.train_rows, True),
        (made.val_rows, True),
    ]
    assert preview.basis == ""
    assert bool(preview.gone or preview.come)
    assert not preview.is_without_effect
    if isinstance(change, Filter):
        is_long = [len(row.layout.turns[1].text) >= 30 for row in preview.staying]
        assert all(is_long) or not change.keep


def test_a_new_split_is_within_the_error_that_is_said(ctx: Context) -> None:
    first = imported(ctx, "sayings", [{"instruction": f"Say {n}.", "output": "x"} for n in range(400)])
    change = Resplit(val_fraction=0.3, seed=4)
    preview = preview_change(ctx, first, change)
    made = done(ctx, derive_version(ctx, first.id, change=change, person=LOCAL))
    assert preview.after is not None
    train, val = preview.after
    assert (val.value, train.value) == (120, 280)
    assert val.low <= made.val_rows <= val.high
    assert train.low <= made.train_rows <= train.high
    assert val.high - val.low == 36, "twice 1.96 standard errors of a binomial, rounded up"


def test_the_intervals_of_a_sample_hold_the_truth_about_as_often_as_they_say(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": f"Say {n}.", "output": "a" * (n * 7919 % 997 + 1)} for n in range(3000)]
    first = imported(ctx, "many", rows)
    change = Filter(conditions=(RowCondition(field="completion", test="at_least", value=300),))
    truth = preview_change(ctx, first, change).after
    assert truth is not None
    assert truth[0].is_exact
    monkeypatch.setattr(change_preview, "MAX_EXACT", 100)
    monkeypatch.setattr(change_preview, "SAMPLED", 300)
    held = 0
    for seed in range(40):  # draws that do not depend on each other
        monkeypatch.setattr(change_preview, "SEED", seed)
        preview = preview_change(ctx, first, change)
        assert preview.after is not None
        assert not preview.after[0].is_exact
        held += preview.after[0].low <= truth[0].value <= preview.after[0].high
        assert "300 rows drawn at random from 3,000 rows" in preview.basis
    assert held >= 35, "fewer happen once in seventy times at 95 %"


def test_a_change_that_can_not_be_made_or_does_nothing_is_said_before(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS[:45])
    never = Filter(conditions=(RowCondition(test="contains", value="zebra"),))
    with pytest.raises(InvalidInput, match="no train row is left"):
        preview_change(ctx, first, never)
    with pytest.raises(InvalidInput, match="has 45 rows, so 46 can't be drawn") as refused:
        preview_change(ctx, first, KeepSample(num_rows=46))
    assert refused.value.remedy == "Draw at most 45."
    imported(ctx, "marks", [{"prompt": "a", "completion": str(n), "label": n % 2 == 0} for n in range(9)], kind="kto")
    with pytest.raises(InvalidInput, match="of kind kto") as refused:
        preview_change(ctx, first, Merge(other="marks"))
    assert refused.value.remedy == "Choose a version of kind instruction."
    with pytest.raises(InvalidInput, match="have no field 'chosen'"):
        preview_change(ctx, first, Filter(conditions=(RowCondition(field="chosen", test="contains", value="x"),)))
    assert preview_change(ctx, first, DropDuplicates()).is_without_effect
    assert preview_change(ctx, first, never.model_copy(update={"keep": False})).is_without_effect


def test_duplicates_of_a_long_version_are_not_guessed(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    first = imported(ctx, "sayings", ROWS)
    monkeypatch.setattr(change_preview, "MAX_HASHED", 10)
    preview = preview_change(ctx, first, DropDuplicates())
    assert preview.after is None
    assert "too many to compare here" in preview.basis
    assert not preview.is_without_effect


def test_validation_rows_of_a_merge_are_hashed_once(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    first = imported(ctx, "sayings", ROWS)
    imported(ctx, "others", [{"instruction": f"New {n}", "output": "x"} for n in range(30)])
    before = preview_change(ctx, first, Merge(other="others"))
    read, splits = change_preview._rows_of, list[str]()
    monkeypatch.setattr(change_preview, "_rows_of", lambda at, split: (splits.append(split), read(at, split))[1])
    assert preview_change(ctx, first, Merge(other="others")) == before
    assert "val" not in splits
