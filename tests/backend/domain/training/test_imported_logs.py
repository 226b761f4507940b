"""Logs of other programs: what the real writers wrote is read, what nobody should write is refused in words."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.training import imported_logs as foreign_logs
from backend.domain.training.imported_logs import our_name, read_logs
from backend.errors import InvalidInput

STATE = {
    "global_step": 30,
    "total_flos": 3.0e12,
    "log_history": [
        {
            "loss": 2.5,
            "grad_norm": 1.5,
            "learning_rate": 0.001,
            "epoch": 0.1,
            "step": 10,
            "num_input_tokens_seen": 5120,
        },
        {
            "eval_loss": 2.4,
            "eval_runtime": 1.0,
            "eval_samples_per_second": 3.0,
            "eval_rewards/margins": 0.2,
            "epoch": 0.1,
            "step": 10,
        },
        {"loss": float("nan"), "rewards/chosen": 1.0, "step": 20, "num_input_tokens_seen": 10240},
        {"train_runtime": 9.0, "train_loss": 2.45, "total_flos": 3.0e12, "step": 30},
    ],
}


def only(data: bytes, filename: str = "log") -> foreign_logs.ParsedLog:
    (log,) = read_logs(data, filename=filename)
    return log


def values(log: foreign_logs.ParsedLog, metric: str) -> dict[int, float]:
    return {step: value for step, (value, _) in log.points[metric].items()}


def test_the_state_of_a_trainer_becomes_curves_with_our_names() -> None:
    log = only(json.dumps(STATE).encode(), "trainer_state.json")
    assert log.format == "trainer_state.json"
    assert set(log.points) == {
        "train_loss",
        "grad_norm",
        "learning_rate",
        "val_loss",
        "val_rewards/margins",
        "rewards/chosen",
    }
    assert values(log, "train_loss") == {10: 2.5}
    assert log.not_finite == {"train_loss": 20}
    assert (log.tokens_per_step, log.flops_per_step, log.has_time) == (512.0, 1.0e11, False)


@pytest.fixture(scope="module")
def event_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What TensorBoard's own writer writes: simple values, tensors, and kinds that are no curve."""
    writers = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2

    folder = tmp_path_factory.mktemp("events")
    writer = writers.EventFileWriter(str(folder))
    for step in range(1, 301):
        tensor = tensor_pb2.TensorProto(
            dtype=1, tensor_shape=tensor_shape_pb2.TensorShapeProto(), float_val=[0.5 + step]
        )
        double = tensor_pb2.TensorProto(
            dtype=2, tensor_shape=tensor_shape_pb2.TensorShapeProto(), tensor_content=struct.pack("<d", 1 / step)
        )
        summary = summary_pb2.Summary(
            value=[
                summary_pb2.Summary.Value(tag="train/loss", simple_value=3.0 / step),
                summary_pb2.Summary.Value(tag="eval/loss", tensor=tensor),
                summary_pb2.Summary.Value(tag="lr", tensor=double),
                summary_pb2.Summary.Value(tag="picture", image=summary_pb2.Summary.Image(height=1, width=1)),
            ]
        )
        writer.add_event(event_pb2.Event(wall_time=1000.0 + step, step=step, summary=summary))
    writer.close()
    return next(folder.iterdir()).read_bytes()


def test_event_files_of_tensorboard_are_read_as_its_own_writer_wrote_them(event_file: bytes) -> None:
    log = only(event_file)
    assert log.format == "TensorBoard"
    assert values(log, "train_loss") == {step: pytest.approx(3.0 / step, rel=1e-6) for step in range(1, 301)}
    assert values(log, "val_loss")[300] == 300.5
    assert values(log, "learning_rate")[7] == 1 / 7
    assert set(log.points) == {"train_loss", "val_loss", "learning_rate"}
    assert log.has_time
    assert log.points["train_loss"][5][1] == 1005.0


def test_an_event_file_that_is_still_written_is_read_as_far_as_it_goes(event_file: bytes) -> None:
    assert max(only(event_file[:-30]).points["train_loss"]) == 299


def test_a_damaged_event_file_is_read_up_to_the_damage_with_a_note(event_file: bytes) -> None:
    half = len(event_file) // 2
    log = only(event_file[:half] + b"\xff" * 64 + event_file[half + 64 :])
    assert 100 < max(log.points["train_loss"]) < 200
    assert "damaged at byte" in log.notes[0]


@given(noise=st.binary(max_size=200))
def test_any_bytes_in_a_message_are_read_or_refused(event_file: bytes, noise: bytes) -> None:
    length = int.from_bytes(event_file[:8], "little")
    # a sound frame, so that the noise reaches the reader of messages
    framed = event_file[:12] + (noise + bytes(length))[:length]
    for data in (framed, noise):
        with contextlib.suppress(InvalidInput):
            assert all(log.points for log in read_logs(data, filename="noise")), "what is read holds something"


def test_a_table_with_one_column_a_metric_is_read() -> None:
    log = only(b"\xef\xbb\xbfStep;Train/Loss;note;val_loss;time\n0;3.5;warm;;100\n10;2.5;;2.75;110\n20;nan;;inf;120\n")
    assert values(log, "Train/Loss" if "Train/Loss" in log.points else "train_loss") == {0: 3.5, 10: 2.5}
    assert values(log, "val_loss") == {10: 2.75}
    assert log.has_time
    assert log.not_finite == {"train_loss": 20, "val_loss": 20}


def test_our_own_export_is_imported_run_by_run() -> None:
    table = (
        "run,name,metric,step,time,value\r\na1,first,train_loss,1,5.0,2.5\r\na1,first,val_loss,1,5.0,2.0\r\n"
        "b2,second,train_loss,1,6.0,3.5\r\n"
    )
    first, second = read_logs(table.encode(), filename="curves.csv")
    assert (first.name, second.name) == ("first", "second")
    assert values(first, "val_loss") == {1: 2.0}
    assert values(second, "train_loss") == {1: 3.5}


def test_an_export_of_weights_and_biases_is_imported_run_by_run() -> None:
    names = [f"{run} - train/loss{end}" for run in ("gallant-sun-3", "a - b") for end in ("", "__MIN", "__MAX")]
    header = ",".join(f'"{name}"' for name in ["Step", *names])
    logs = read_logs(f"{header}\n1,2.5,2.4,2.6,,,\n2,2.0,2,2,3.5,3,4\n".encode(), filename="wandb_export.csv")
    assert {log.name: log.points for log in logs} == {
        "gallant-sun-3": {"train_loss": {1: (2.5, None), 2: (2.0, None)}},
        "a - b": {"train_loss": {2: (3.5, None)}},
    }


def test_runs_of_one_name_in_an_export_of_weights_and_biases_stay_apart() -> None:
    """The second run of a name overwrote the first."""
    names = [f"base - {metric}{end}" for metric in ("loss", "_step", "lr") for end in ("", "__MIN", "__MAX")]
    header = ",".join(["Step", *(name for name in names for _run in range(2))])
    row = ",".join(str(place) for place in range(1, 19))
    logs = read_logs(f"{header}\n0,{row}\n".encode(), filename="wandb_export.csv")
    assert [(log.name, log.points) for log in logs] == [
        ("base", {"train_loss": {0: (1.0, None)}, "learning_rate": {0: (13.0, None)}}),
        ("base", {"train_loss": {0: (2.0, None)}, "learning_rate": {0: (14.0, None)}}),
    ]


def test_a_download_of_tensorboards_page_is_named_by_its_file() -> None:
    log = only(b"Wall time,Step,Value\n100.5,1,2.5\n101.5,2,2.25\n", "val_loss.csv")
    assert values(log, "val_loss") == {1: 2.5, 2: 2.25}


def test_lines_of_json_are_read() -> None:
    lines = (
        '{"_step": 1, "loss": 2.0, "_timestamp": 5.0, "note": "a\u2028b"}\n{"_step": 2, "loss": 1.5, "_timestamp": 6.0}'
    )
    log = only(lines.encode())
    assert values(log, "train_loss") == {1: 2.0, 2: 1.5}
    assert log.has_time


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no points"),
        (b"\x00\x01\x02 what is this", "no column `step`"),
        (b"epoch,loss\n1,2\n", "no column `step`"),
        (b"step,loss\n", "holds no points"),
        (b'{"log_history": []}', "holds no points"),
        (b'{"log_history": [{"step": 1', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"step,loss\n-5,1.0\n", "not between 0"),
        (b"step,loss\n99999999999,1.0\n", "not between 0"),
        (b"step," + ",".join(f"m{n}" for n in range(300)).encode() + b"\n1" + b",1" * 300, "more than 200 metrics"),
        (b'step,loss\n1,"' + b"x" * 300_000, "can't be read|holds no points"),  # as long as the process lets a field be
    ],
)
def test_a_file_that_is_no_log_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_logs(data, filename="odd.bin")


def test_a_log_above_the_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_logs, "MAX_POINTS", 10)
    with pytest.raises(InvalidInput, match="more than 10 points"):
        read_logs(b"step,loss\n" + b"".join(b"%d,1.0\n" % step for step in range(11)), filename="long.csv")
    monkeypatch.setattr(foreign_logs, "MAX_BYTES", 10)
    with pytest.raises(InvalidInput, match="larger than"):
        read_logs(b"x" * 11, filename="big.csv")


def test_a_pickle_is_no_log(tmp_path: Path) -> None:
    import pickle

    class Boom:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.write_text, (str(tmp_path / "ran"),))

    with pytest.raises(InvalidInput):
        read_logs(pickle.dumps(Boom()), filename="log.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("loss", "train_loss"),
        ("train/grad_norm", "grad_norm"),
        ("eval/loss", "val_loss"),
        ("eval_rewards/accuracies", "val_rewards/accuracies"),
        ("epoch", None),
        ("train/epoch", None),
        ("eval_runtime", None),
        ("eval_steps_per_second", None),
        ("x" * 100, "x" * 59 + "…"),
    ],
)
def test_metrics_get_our_names(theirs: str, ours: str | None) -> None:
    assert our_name(theirs) == ours


def test_names_lose_what_can_not_be_stored_and_values_that_overflow_are_no_numbers() -> None:
    log = only(
        b'{"step":1,"a\\u0000b\\ud800":1,"loss":1e308,"time":-1e308}\n{"step":2,"\\ud800":1,"loss":2,"time":1e308}'
    )
    assert values(log, "ab") == {1: 1.0}
    assert (values(log, "train_loss"), log.not_finite, log.has_time) == ({2: 2.0}, {"train_loss": 1}, False)


def test_two_names_of_one_metric_give_a_note() -> None:
    log = only(b'{"step":1,"loss":1,"train/loss":5}\n{"step":2,"loss":1,"train/loss":4}')
    assert values(log, "train_loss") == {1: 5.0, 2: 4.0}
    assert log.notes == ["“loss” and “train/loss” are both train_loss; later values count."]
