"""Completions and log-likelihoods: what the jobs of battles and of the command line write."""

from __future__ import annotations

import json

import pytest

from backend.errors import InvalidInput, JobFailed
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.evaluation_rooms import EvaluationRoom, Remembering
from tests.support.networks.oracles import chain_bigram, random_bigram, save_bigram, save_random

PROMPTS = ["Tell me of the sea.", "h", "A much longer prompt, so that others are padded.", "Why?"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> EvaluationRoom:
    room = EvaluationRoom(tmp_path_factory.mktemp("completions"))
    save_random(room.root / "random", context=96)
    save_bigram(room.root / "hat", chain_bigram("hat"))
    save_bigram(room.root / "bigram", random_bigram(2))
    return room


def prompts(texts: list[str]) -> list[dict[str, object]]:
    return [{"id": f"p{index}", "messages": [{"role": "user", "content": text}]} for index, text in enumerate(texts)]


def completions(
    room: EvaluationRoom, checkpoint: str, texts: list[str], *, job: str, **values: object
) -> dict[str, dict[str, object]]:
    reporter = Remembering()
    room.work(
        "generate",
        {"checkpoint": checkpoint, "prompts": prompts(texts), "max_tokens": 12, **values},
        job=job,
        reporter=reporter,
    )
    return {texts[int(str(event["prompt_id"])[1:])]: event for event in reporter.of("completion")}


def test_greedy_completion_stops_at_the_end_token_and_says_so(room: EvaluationRoom) -> None:
    event = completions(room, "hat", ["oh h"], job="stop", chat="off")["oh h"]
    assert (event["text"], event["tokens"], event["finish_reason"]) == ("at", 3, "stop")


def test_greedy_completion_is_the_same_in_a_batch_and_alone(room: EvaluationRoom) -> None:
    together = completions(room, "random", PROMPTS, job="together", chat="off")
    alone = [completions(room, "random", [text], job=f"alone {text}", chat="off")[text]["text"] for text in PROMPTS]
    assert [together[text]["text"] for text in PROMPTS] == alone
    assert all(event["finish_reason"] == "length" for event in together.values())


def test_drawn_completion_depends_on_seed_and_prompt_alone(room: EvaluationRoom) -> None:
    values = {"temperature": 1.0, "top_p": 0.95, "chat": "off"}
    together = completions(room, "random", PROMPTS, job="drawn", seed=1, **values)
    turned = completions(room, "random", PROMPTS[::-1][:2], job="turned", seed=1, **values)
    other = completions(room, "random", PROMPTS, job="other", seed=2, **values)
    assert turned[PROMPTS[3]]["text"] == together[PROMPTS[3]]["text"]
    assert [other[text]["text"] for text in PROMPTS] != [together[text]["text"] for text in PROMPTS]


def test_draws_follow_the_networks_distribution_within_top_p(room: EvaluationRoom) -> None:
    log_p, tokenizer = random_bigram(2), byte_tokenizer()
    after_h = log_p[tokenizer.encode("h", add_special_tokens=False)[0]]
    likeliest = set(after_h.argsort()[::-1][:3].tolist())
    texts = [f"{index} h" for index in range(60)]
    drawn = completions(room, "bigram", texts, job="top_p", max_tokens=1, temperature=1.0, top_p=1e-6, chat="off")
    letters = {str(event["text"]) for event in drawn.values()}
    assert letters == {tokenizer.decode([int(after_h.argmax())])}  # the tiniest nucleus is the likeliest token alone
    free = completions(room, "bigram", texts, job="free", max_tokens=1, temperature=1.0, chat="off")
    assert len({str(event["text"]) for event in free.values()}) > len(likeliest)


def test_prompt_that_leaves_no_room_loses_its_beginning(room: EvaluationRoom) -> None:
    event = completions(room, "random", ["x" * 500], job="long", chat="off")["x" * 500]
    assert event["prompt_tokens"] == 96 - 12
    assert event["tokens"] == 12
    with pytest.raises(InvalidInput, match="leave no room"):
        completions(room, "random", ["x"], job="no room", max_tokens=96)


def test_a_stopped_generation_keeps_its_completions(room: EvaluationRoom) -> None:
    payload = {"checkpoint": "random", "prompts": prompts([f"{i}" for i in range(40)]), "max_tokens": 4, "chat": "off"}
    with pytest.raises(JobFailed):
        room.work("generate", payload, job="stopped", reporter=Remembering(stop_after=16))
    reporter = Remembering()
    result = room.work("generate", payload, job="stopped", reporter=reporter)
    assert result["count"] == 40
    # earlier ones are told again
    assert sorted(int(str(e["prompt_id"])[1:]) for e in reporter.of("completion")) == list(range(40))
    stored = [json.loads(line) for line in (room.root / str(result["file"])).read_text().split("\n") if line]
    assert len(stored) == 40


def test_loglikelihoods_come_back_in_order_and_equal_the_table(room: EvaluationRoom) -> None:
    log_p, tokenizer = random_bigram(2), byte_tokenizer()
    rows = [
        {"context": "a\u2028b", "continuation": " cd"},
        {"context": "", "continuation": "xyz"},
        {"context": "long " * 9, "continuation": "e"},
    ]
    (room.root / "pairs.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8"
    )
    result = room.work("loglikelihood", {"checkpoint": "bigram", "rows_file": "pairs.jsonl"}, job="pairs")
    items = [json.loads(line) for line in (room.root / str(result["items_file"])).read_text().split("\n") if line]
    for row, item in zip(rows, items, strict=True):
        before = tokenizer.encode(row["context"].rstrip(), add_special_tokens=True)
        both = tokenizer.encode(row["context"] + row["continuation"], add_special_tokens=True)
        expected = sum(log_p[both[i - 1], both[i]] for i in range(len(before), len(both)))
        assert item["sum_logprob"] == pytest.approx(expected, abs=1e-4)
        assert item["tokens"] == len(both) - len(before)
        assert item["greedy"] == all(log_p[both[i - 1]].argmax() == both[i] for i in range(len(before), len(both)))


def test_broken_line_of_pairs_is_named(room: EvaluationRoom) -> None:
    (room.root / "broken.jsonl").write_text('{"context": "a", "continuation": "b"}\n{"context": 3}\n')
    with pytest.raises(InvalidInput, match="Line 2"):
        room.work("loglikelihood", {"checkpoint": "bigram", "rows_file": "broken.jsonl"}, job="broken")
