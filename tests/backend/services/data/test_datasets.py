"""Datasets: from an upload to an immutable version, and what may be deleted."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.db.tables import Job, Provider, Run
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.versions.provenance import VotesProvenance
from backend.domain.jobs.payloads import ImportPayload, ShardCluster
from backend.domain.jobs.placement import Partition
from backend.domain.jobs.results import ImportResult
from backend.domain.jobs.states import JobKind
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.infra.compute.slurm import Slurm
from backend.infra.files.heads import head_of_path
from backend.services.context import LOCAL, Context, OperatorPolicy, Person
from backend.services.data.datasets import (
    archive_dataset,
    delete_dataset,
    get_dataset,
    list_datasets,
    rename_dataset,
    resolve_version,
)
from backend.services.data.imports import (
    add_rows_dataset,
    fill_cluster,
    get_past_import,
    import_again,
    import_dataset,
    record_import,
)
from backend.services.data.preview import SourcePreview, preview_head, preview_rows, read_rejected
from backend.services.data.sources import (
    ImportSource,
    browse_data_folder,
    read_source_head,
    save_upload,
    save_uploads,
    search_data_folder,
    stored_names,
)
from backend.services.data.views import VersionView
from backend.services.jobs.claims import claim_job
from tests.support.data.dataset_world import done, queue_import
from tests.support.job_work import do_job
from tests.support.jobs import add_stored_job, take_job
from tests.support.scenario import add_row

ALPACA = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}!"} for n in range(20)]
RATER = Person(id="r", name="Rater", role="rater")


def upload(ctx: Context, name: str, text: str) -> str:
    return save_upload(ctx, io.BytesIO(text.encode()), name=name, person=LOCAL)


def imported(ctx: Context, name: str, rows: list[dict[str, object]], *, kind: str = "instruction") -> VersionView:
    return done(ctx, queue_import(ctx, name, rows, kind=kind))


def preview_upload(ctx: Context, stored: str, **given: Any) -> SourcePreview:
    return preview_head(read_source_head(ctx, ImportSource(upload=stored), person=LOCAL), **given)


def test_upload_is_recognised_previewed_and_imported(ctx: Context) -> None:
    stored = upload(ctx, "my rows.json", json.dumps([*ALPACA, {"instruction": "", "output": 3}]))
    seen = preview_upload(ctx, stored)
    assert (seen.kind, seen.mapping["instruction"], seen.mapping["output"]) == ("instruction", "prompt", "completion")
    assert "Say 0." in seen.preview[0].text
    assert [row.problem for row in seen.preview if row.problem]
    version = import_dataset(
        ctx,
        name="sayings",
        source=ImportSource(upload=stored),
        options=ImportOptions(kind=seen.kind, mapping=seen.mapping, val_fraction=0.1, max_rejected=1),
        person=LOCAL,
    )
    assert version.is_importing
    with pytest.raises(Conflict, match="still being imported"):
        resolve_version(ctx, "sayings")
    do_job(ctx, version.job_id)
    done = resolve_version(ctx, "sayings")
    assert (done.label, done.rows, done.train_rows, done.val_rows, done.rejected_rows) == ("sayings@1", 20, 18, 2, 1)
    assert json.loads(read_rejected(ctx, done))["row"] == 21
    assert len(preview_rows(ctx, done, split="train", limit=20)) == 18
    assert not list(ctx.artifacts.folder("uploads").iterdir()), "the upload is not kept beside the Parquet"


def test_same_content_makes_no_second_version(ctx: Context) -> None:
    first = imported(ctx, "sayings", ALPACA)
    again = imported(ctx, "sayings", ALPACA)
    assert again.reused
    assert again.id == first.id
    assert len(get_dataset(ctx, "sayings").versions) == 1
    other = imported(ctx, "sayings", ALPACA[:10])
    assert (other.number, other.reused) == (2, False)
    assert resolve_version(ctx, "sayings").number == 2
    assert resolve_version(ctx, "sayings@1").rows == 20


def test_double_click_is_one_import(ctx: Context) -> None:
    stored = upload(ctx, "a.jsonl", '{"text": "once"}')
    one = import_dataset(
        ctx,
        name="a",
        source=ImportSource(upload=stored),
        options=ImportOptions(kind="text"),
        person=LOCAL,
        idempotency_key="click",
    )
    two = import_dataset(
        ctx,
        name="a",
        source=ImportSource(upload=stored),
        options=ImportOptions(kind="text"),
        person=LOCAL,
        idempotency_key="click",
    )
    assert one.id == two.id


def test_a_failed_import_gives_the_reason_and_frees_its_name(ctx: Context) -> None:
    broken = queue_import(ctx, "a", '{"x": 1}\n', file="a.jsonl")
    job = do_job(ctx, broken.job_id)
    assert job.status == "failed"
    with pytest.raises(Conflict, match="did not finish"):
        resolve_version(ctx, "a")
    assert imported(ctx, "a", ALPACA).number == 1
    assert len(get_dataset(ctx, "a").versions) == 1


def test_an_unknown_name_suggests_similar_ones(ctx: Context) -> None:
    imported(ctx, "sayings", ALPACA)
    with pytest.raises(NotFound, match="Did you mean “sayings”"):
        resolve_version(ctx, "saying")
    with pytest.raises(NotFound, match="no version 7"):
        resolve_version(ctx, "sayings@7")


def test_dataset_in_use_names_its_users_and_is_not_deleted(ctx: Context) -> None:
    version = imported(ctx, "sayings", ALPACA)
    add_row(ctx, Run(name="my run", objective="sft", config={}, dataset_version_id=version.id))
    with pytest.raises(Conflict, match="run “my run”"):
        delete_dataset(ctx, version.dataset_id, person=LOCAL)
    archive_dataset(ctx, version.dataset_id, person=LOCAL)
    assert list_datasets(ctx) == []
    assert [dataset.name for dataset in list_datasets(ctx, archived=True)] == ["sayings"]


def test_deleting_keeps_a_folder_that_another_dataset_shares(ctx: Context) -> None:
    first, second = imported(ctx, "one", ALPACA), imported(ctx, "two", ALPACA)
    assert first.folder == second.folder
    delete_dataset(ctx, first.dataset_id, person=LOCAL)
    assert preview_rows(ctx, resolve_version(ctx, "two"))
    delete_dataset(ctx, second.dataset_id, person=LOCAL)
    assert not ctx.artifacts.path(str(second.folder)).exists()


def test_rows_from_votes_become_a_preference_set_with_provenance(ctx: Context) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {n}"}],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        }
        for n in range(12)
    ]
    version = add_rows_dataset(
        ctx, name="votes", kind="preference", rows=rows, provenance=VotesProvenance(campaign="c1"), person=LOCAL
    )
    do_job(ctx, version.job_id)
    done = resolve_version(ctx, "votes")
    assert (done.kind, done.rows, done.provenance) == ("preference", 12, VotesProvenance(campaign="c1"))


def test_upload_above_the_limit_leaves_nothing_behind(ctx: Context) -> None:
    small = replace(ctx, policy=OperatorPolicy(max_upload_bytes=10, keep_free_bytes=0))
    with pytest.raises(InvalidInput, match="larger than"):
        save_upload(small, io.BytesIO(b"x" * 11), name="big.txt", person=LOCAL)
    assert not list(ctx.artifacts.folder("uploads").iterdir())


def test_an_old_upload_is_cleared_away_unless_a_waiting_job_reads_it(ctx: Context, tmp_path: Path) -> None:
    unused, waiting = upload(ctx, "a.txt", "nobody wants it"), upload(ctx, "b.txt", "a queued import reads it")
    import_dataset(ctx, name="b", source=ImportSource(upload=waiting), options=ImportOptions(kind="text"), person=LOCAL)
    pairs = ctx.artifacts.folder("uploads", "pairs") / "pairs.jsonl"
    pairs.write_text("{}")
    with ctx.db.write() as session:
        add_stored_job(
            session, ctx, JobKind.LOGLIKELIHOOD, title="pairs", payload={"rows_file": ctx.artifacts.relative(pairs)}
        )
    later = replace(ctx, now=lambda: datetime.now(UTC) + timedelta(days=2))
    upload(later, "c.txt", "makes room")
    assert not ctx.artifacts.path(unused).exists()
    assert ctx.artifacts.path(waiting).exists()
    assert pairs.exists()


def test_an_import_whose_content_was_deleted_meanwhile_fails(ctx: Context) -> None:
    version = queue_import(ctx, "twin", "text", file="a.txt", kind="text")
    claim = claim_job(ctx, str(version.job_id), owner="w", host="h")
    assert claim is not None
    with pytest.raises(Conflict, match="deleted during the import"), ctx.db.write() as session:
        record_import(session, ctx, claim, ImportResult(folder="datasets/gone", content_hash="0"))
    assert not resolve_version(ctx, "twin", ready=False).is_ready


def test_upload_name_can_not_climb_out(ctx: Context) -> None:
    stored = save_upload(ctx, io.BytesIO(b"hello"), name="../../..\\evil name.txt", person=LOCAL)
    path = ctx.artifacts.path(stored)
    assert path.name == "evil-name.txt"
    assert path.parent.parent == ctx.artifacts.root / "uploads"


def test_kind_of_a_name_does_not_change(ctx: Context) -> None:
    version = imported(ctx, "sayings", ALPACA)
    with pytest.raises(Conflict, match="of kind instruction"):
        queue_import(ctx, "sayings", "text", file="t.txt", kind="text")
    rename_dataset(ctx, version.dataset_id, "words", person=LOCAL)
    assert resolve_version(ctx, "words").id == version.id


def test_account_reads_only_the_folder_of_data_files(ctx: Context, tmp_path: Path) -> None:
    inside, outside = tmp_path / "data" / "a.txt", tmp_path / "secret.txt"
    inside.parent.mkdir()
    inside.write_text("offered")
    outside.write_text("not offered")
    here = replace(ctx, data_path=inside.parent)
    view = browse_data_folder(here)
    assert view is not None
    assert [entry.name for entry in view.files] == ["a.txt"]
    engineer = Person(id="e", name="Engineer", role="engineer")
    with pytest.raises(NotAllowed, match="outside the folder"):
        import_dataset(
            here, name="s", source=ImportSource(path=outside), options=ImportOptions(kind="text"), person=engineer
        )
    with pytest.raises(NotAllowed, match="may not"):
        import_dataset(
            here, name="s", source=ImportSource(path=inside), options=ImportOptions(kind="text"), person=RATER
        )
    version = import_dataset(
        here, name="s", source=ImportSource(path=inside), options=ImportOptions(kind="text"), person=LOCAL
    )
    do_job(ctx, version.job_id)
    assert resolve_version(ctx, "s").facts.text_bytes == len("offered")


def test_a_lone_surrogate_in_a_row_or_a_column_can_be_shown(ctx: Context) -> None:
    stored = upload(
        ctx,
        "half.jsonl",
        '{"instruction": "\\ud800", "output": "x", "\\udfff": "y"}\n' + '{"instruction": "a", "output": "b"}\n' * 9,
    )
    seen = preview_upload(ctx, stored)
    assert seen.columns == ("instruction", "output")
    shown = [*seen.examples.values(), *(row.text + row.problem for row in seen.preview), seen.reason]
    assert "\\ud800" in "".join(shown).encode().decode()


def test_a_lone_column_of_texts_is_not_offered_as_trees(ctx: Context) -> None:
    """“Nothing is used as tree (found: text; use it?)”"""
    stored = upload(ctx, "a.txt", "One text.\n\nAnother.\n" * 9)
    preview = preview_upload(ctx, stored, kind="preference")
    assert "tree" not in {hint.field for hint in preview.hints}
    assert preview.problem


def test_a_column_that_has_another_name_is_offered_for_the_field(ctx: Context) -> None:
    stored = upload(ctx, "a.jsonl", '{"instruction": "Say hello.", "letter": "hello"}\n' * 9)
    bare = preview_upload(ctx, stored, kind="instruction")
    assert bare.mapping == {"instruction": "prompt"}
    assert [(hint.field, hint.column) for hint in bare.hints] == [("completion", "letter")]
    stale = preview_upload(ctx, stored, kind="instruction", mapping={"instruction": "prompt", "output": "completion"})
    assert [(hint.field, hint.column, hint.missing) for hint in stale.hints] == [("completion", "letter", "output")]
    assert "column `output` is missing (found: `letter`)" in stale.preview[0].problem
    done = preview_upload(ctx, stored, kind="instruction", mapping={"instruction": "prompt", "letter": "completion"})
    assert not done.hints
    assert not done.problem


def test_what_a_preview_can_not_read_is_told_before_the_import(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in ALPACA)
    (tmp_path / "a.jsonl").write_text(f'{rows}{{"instruction": "cut\n{rows}')
    (tmp_path / "b.jsonl").write_text('{"question": "Where?", "choices": []}\n')
    (tmp_path / "c.jsonl").write_text(rows)
    (tmp_path / "d.jsonl").write_bytes(b"\x00")
    seen = preview_head(head_of_path(tmp_path))
    assert [row.problem.partition(":")[0] for row in seen.preview if row.problem] == [f"Row {len(ALPACA) + 1}"]
    assert [name for name, _ in seen.misfits] == ["b.jsonl", "d.jsonl"]
    assert "is missing (found: `question`, `choices`" in seen.misfits[0][1]


@pytest.mark.parametrize("kind", ["prompts", "records"])
def test_lines_of_a_text_are_previewed_and_imported_as_prompts(ctx: Context, kind: str) -> None:
    stored = upload(ctx, "pasted.TXT", "Tell me a story.\n\nErzähl mir von Zügen.\nWarum?\n")
    seen = preview_upload(ctx, stored, kind=kind)
    assert [row.text.removeprefix("prompt: ") for row in seen.preview] == [
        "Tell me a story.",
        "Erzähl mir von Zügen.",
        "Warum?",
    ]
    options = ImportOptions(kind=kind, mapping=seen.mapping)
    version = import_dataset(ctx, name="lines", source=ImportSource(upload=stored), options=options, person=LOCAL)
    do_job(ctx, version.job_id)
    assert resolve_version(ctx, "lines").rows == 3


def test_a_first_row_that_is_longer_than_a_preview_is_read_whole(tmp_path: Path) -> None:
    row = {"prompt": "Long?", "completion": "x" * 3 * 2**20}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n" + '{"prompt": "Short?", "completion": "Yes."}\n')
    assert [len(row["completion"]) for row in head_of_path(tmp_path / "long.jsonl").rows] == [3 * 2**20, 4]  # type: ignore[arg-type]


def test_a_failed_import_is_done_again_with_its_good_rows(ctx: Context) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ALPACA) + "no JSON\n"
    strict = queue_import(ctx, "a", text, file="a.jsonl", keep_good=False)
    job = do_job(ctx, strict.job_id)
    assert job.status == "failed"
    assert "row 21" in job.error.cause
    assert job.error.field == "keep_good"
    again = import_again(ctx, strict.id, keep_good=True, person=LOCAL)
    do_job(ctx, again.job_id)
    done = resolve_version(ctx, "a")
    assert (done.rows, done.rejected_rows, done.number) == (20, 1, 1)
    with pytest.raises(NotFound, match="was deleted"):
        get_past_import(ctx, done.id, person=LOCAL)


def test_utf16_without_a_byte_order_mark_is_detected_before_the_import(ctx: Context, tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.jsonl").write_bytes('{"instruction": "Count to two.", "output": "1, 2"}\n'.encode(encoding))
        source = ImportSource(path=tmp_path / "a.jsonl")
        with pytest.raises(InvalidInput, match="every other byte is zero") as raised:
            read_source_head(ctx, source, person=LOCAL)
        assert raised.value.field == "encoding"
        assert encoding in raised.value.remedy
        assert read_source_head(ctx, source, person=LOCAL, encoding=encoding).rows[0]["output"] == "1, 2"


def test_data_folder_is_walked_folder_by_folder_and_no_link_leads_out(ctx: Context, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "sub/deep").mkdir(parents=True)
    for name in ("b.jsonl", "sub/story.txt.gz", "sub/deep/story.csv", "picture.png", ".hidden.txt"):
        (root / name).write_text("x")
    (root / os.fsdecode(b"caf\xe9.txt")).write_text("a name that is no UTF-8")
    (root / "passwd.txt").symlink_to("/etc/passwd")
    (root / "etc").symlink_to("/etc")
    (root / "again.jsonl").symlink_to(root / "b.jsonl")
    (root / "circle.jsonl").symlink_to("circle.jsonl")
    here = replace(ctx, data_path=root)
    view = browse_data_folder(here)
    assert view is not None
    assert [(entry.name, entry.is_folder) for entry in view.entries] == [
        ("sub", True),
        ("again.jsonl", False),
        ("b.jsonl", False),
    ]
    assert view.left_out == 5
    entries, complete = search_data_folder(here, "STORY")
    assert ([entry.path for entry in entries], complete) == (["sub/story.txt.gz", "sub/deep/story.csv"], True)
    (tmp_path / "mounted").symlink_to(root)
    assert browse_data_folder(replace(ctx, data_path=tmp_path / "mounted")) == view, "DATA_PATH itself may be a link"
    for path in ("etc", "../..", "/etc", "circle.jsonl"):
        with pytest.raises((NotAllowed, NotFound)):
            browse_data_folder(here, path)
    with pytest.raises(NotAllowed, match="outside the folder"):
        import_dataset(
            here,
            name="s",
            source=ImportSource(path=root / "passwd.txt"),
            options=ImportOptions(kind="text"),
            person=Person(id="e", name="E", role="engineer"),
        )


def test_bidirectional_marks_are_shown_as_codes(ctx: Context) -> None:
    turned = "to \u202egnihton\u202c and \u2066on\u2069"
    upload = save_upload(
        ctx, io.BytesIO(json.dumps({"instruction": turned, "output": "yes"}).encode()), name="a.jsonl", person=LOCAL
    )
    assert "to \\u202egnihton\\u202c and \\u2066on\\u2069" in preview_upload(ctx, upload).preview[0].text
    version = import_dataset(
        ctx, name="a", source=ImportSource(upload=upload), options=ImportOptions(kind="instruction"), person=LOCAL
    )
    do_job(ctx, version.job_id)
    done = resolve_version(ctx, "a")
    (row,) = [*preview_rows(ctx, done, split="train"), *preview_rows(ctx, done, split="val")]
    assert "\\u202egnihton" in row.text


def test_several_uploads_become_one_dataset_also_of_one_name(ctx: Context) -> None:
    files = [("a.jsonl", ALPACA[:10]), ("a.jsonl", ALPACA[10:15]), ("b.json", ALPACA[15:])]
    texts = ["\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows) for name, rows in files]
    stored = save_uploads(
        ctx, [(name, io.BytesIO(text.encode())) for (name, _), text in zip(files, texts, strict=True)], person=LOCAL
    )
    assert preview_upload(ctx, stored).kind == "instruction"
    version = import_dataset(
        ctx, name="several", source=ImportSource(upload=stored), options=ImportOptions(kind="instruction"), person=LOCAL
    )
    do_job(ctx, version.job_id)
    done = resolve_version(ctx, "several")
    assert done.train_rows + done.val_rows == len(ALPACA)


def test_uploads_stay_in_the_order_in_which_they_were_chosen(ctx: Context) -> None:
    names = ["second.txt", "an “odd” name.txt", "second.txt"]
    stored = save_uploads(ctx, [(name, io.BytesIO(b"%d" % n)) for n, name in enumerate(names)], person=LOCAL)
    files = sorted(ctx.artifacts.path(stored).iterdir())
    assert [file.read_bytes() for file in files] == [b"0", b"1", b"2"]
    assert [file.name for file in files] == stored_names(names)
    version = import_dataset(
        ctx, name="odd", source=ImportSource(upload=stored), options=ImportOptions(kind="text"), person=LOCAL
    )
    assert version.source == "second.txt, an-odd-name.txt, second.txt"


def test_no_upload_of_several_takes_the_place_of_another(ctx: Context) -> None:
    names = ["2-a.jsonl", "a.jsonl", "a.jsonl", "a.jsonl"]
    stored = save_uploads(ctx, [(name, io.BytesIO(b"%d" % n)) for n, name in enumerate(names)], person=LOCAL)
    assert sorted(file.read_bytes() for file in ctx.artifacts.path(stored).iterdir()) == [b"0", b"1", b"2", b"3"]


def test_an_import_of_several_uploads_is_repeated(ctx: Context) -> None:
    stored = save_uploads(
        ctx, [(name, io.BytesIO(json.dumps(ALPACA).encode())) for name in ("a.json", "b.json")], person=LOCAL
    )
    version = import_dataset(
        ctx, name="several", source=ImportSource(upload=stored), options=ImportOptions(kind="instruction"), person=LOCAL
    )
    assert version.source == "a.json, b.json"
    past = get_past_import(ctx, version.id, person=LOCAL)
    assert past.source.upload == stored


def test_several_uploads_of_which_one_is_empty_leave_nothing(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match=r"b\.txt is empty"):
        save_uploads(ctx, [("a.txt", io.BytesIO(b"a")), ("b.txt", io.BytesIO(b""))], person=LOCAL)
    assert not any(ctx.artifacts.folder("uploads").iterdir())


def test_shards_run_here_or_in_slurm_by_the_settings_of_the_worker(ctx: Context) -> None:
    def queue(executor: str) -> VersionView:
        source = ImportSource(upload=upload(ctx, "notes.txt", "one\n<|endoftext|>\ntwo\n"))
        options = ImportOptions(kind="text", shards=2, executor=executor)
        return import_dataset(ctx, name="notes", source=source, options=options, person=LOCAL)

    for executor in ("ray", "kubernetes:cpu"):
        with pytest.raises(InvalidInput, match="Shards can't run on") as refused:
            queue(executor)
        assert (refused.value.field, refused.value.remedy) == ("executor", "Give local, or slurm:PARTITION.")
    with pytest.raises(InvalidInput, match="Slurm is not set up here"):
        queue("slurm:cpu")
    add_row(ctx, Provider(name="slurm", partitions=[Partition(name="cpu")], problem="", checked_at=ctx.now()))
    with pytest.raises(InvalidInput, match="offers no partition 'gpu'") as refused:
        queue("slurm:gpu")
    assert refused.value.field == "executor"
    version = queue("slurm:cpu")
    with pytest.raises(InvalidInput, match="not set up for Slurm"):
        take_job(ctx, version.job_id)
    slurm = Slurm(("cpu",), ("worker",), Path("/"), Path("/"), environment=(), account="lab", options=("--qos=long",))
    payload = fill_cluster(replace(ctx, providers=(slurm,)), payload_of(ctx, version), job_id="7")
    assert payload.cluster == ShardCluster(job_id="7", account="lab", options=("--qos=long",))
    assert fill_cluster(ctx, payload_of(ctx, queue("local")), job_id="8").cluster is None


def payload_of(ctx: Context, version: VersionView) -> ImportPayload:
    with ctx.db.read() as session:
        return ImportPayload.read(session.get_one(Job, str(version.job_id)).payload)
