"""Scores of networks whose probabilities are known must be the known numbers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from backend.errors import InvalidInput, JobFailed, NotFound
from jobs.evaluation.questions import credit
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.evaluation_rooms import EvaluationRoom, Remembering
from tests.support.networks.oracles import chain_bigram, random_bigram, save_bigram, save_uniform

TEXTS = [f"Line {index}: {'lamps and boats, ' * (index % 3)}très bien." for index in range(12)]
V = len(byte_tokenizer())


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> EvaluationRoom:
    room = EvaluationRoom(tmp_path_factory.mktemp("evaluation"))
    save_uniform(room.root / "uniform")
    save_bigram(room.root / "bigram", random_bigram(1))
    save_bigram(room.root / "writes_hat", chain_bigram("hat"))
    room.write("texts", [{"text": text} for text in TEXTS])
    room.write("book", [{"text": " ".join(TEXTS)}])
    return room


def expected_nll(log_p: np.ndarray, text: str) -> tuple[float, int, int]:
    """Sum of -log P over a text after the begin token, its tokens and its bytes."""
    tokenizer = byte_tokenizer()
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    return -sum(log_p[a, b] for a, b in itertools.pairwise(ids)), len(ids) - 1, len(text.encode())


def test_uniform_network_has_the_vocabulary_as_its_perplexity(room: EvaluationRoom) -> None:
    scores = room.evaluate("uniform", "texts", "perplexity", job="uniform")
    assert scores["token_perplexity"]["value"] == pytest.approx(V, rel=1e-6)
    assert scores["bits_per_byte"]["value"] == pytest.approx(math.log2(V), rel=1e-6)  # a byte is a token here
    assert scores["token_perplexity"]["n"] == len(TEXTS)


def test_bigram_oracle_has_the_bits_per_byte_of_its_table(room: EvaluationRoom) -> None:
    scores = room.evaluate("bigram", "texts", "perplexity", job="bigram")
    parts = [expected_nll(random_bigram(1), text) for text in TEXTS]
    nll, tokens, size = (sum(part[i] for part in parts) for i in range(3))
    assert scores["bits_per_byte"]["value"] == pytest.approx(nll / size / math.log(2), abs=1e-6)
    assert scores["nll_per_token"]["value"] == pytest.approx(nll / tokens, abs=1e-6)
    low, high = scores["bits_per_byte"]["low"], scores["bits_per_byte"]["high"]
    assert low < scores["bits_per_byte"]["value"] < high


def test_one_long_document_is_scored_by_windows_that_together_hold_every_byte(room: EvaluationRoom) -> None:
    reporter = Remembering()
    scores = room.evaluate("bigram", "book", "perplexity", job="book", reporter=reporter)
    items = reporter.of("item")
    text = " ".join(TEXTS)
    assert scores["facts"]["unit"] == "windows"
    assert len(items) == scores["bits_per_byte"]["n"] == math.ceil(len(text.encode()) / 63)
    assert sum(item["values"]["bytes"] for item in items) == len(text.encode())
    assert "".join(item["shown"]["text"] for item in items if len(item["shown"]["text"]) < 600)[:20] == text[:20]
    assert scores["bits_per_byte"]["stderr"] > 0


def test_questions_about_one_passage_widen_the_interval(room: EvaluationRoom) -> None:
    """A network that writes "hat" gets all five questions of a passage right or all wrong."""
    passages = [
        f"Passage {n} of the book is long enough to be read as one, and its five questions all have the same answer."
        for n in range(6)
    ]
    rows = [
        {"question": f"{passage}\nQuestion {m}: h", "choices": ["at", "ut"], "answer": int(n % 3 == 0)}
        for n, passage in enumerate(passages)
        for m in range(5)
    ]
    room.write("passages", rows)
    room.write("questions_alone", [{**row, "question": row["question"].rpartition("\n")[2]} for row in rows])
    reporter = Remembering()
    together = room.evaluate("writes_hat", "passages", "multiple_choice", job="passages", reporter=reporter)["acc"]
    alone = room.evaluate("writes_hat", "questions_alone", "multiple_choice", job="alone")["acc"]
    assert together["value"] == alone["value"] == pytest.approx(2 / 3)
    assert together["method"] == "Wilson 95 % with Student's t (5 df), 6 clusters"
    assert together["stderr"] > 2 * alone["stderr"]
    assert len({event["values"]["cluster"] for event in reporter.of("item")}) == 6


def test_bytes_outside_the_vocabulary_are_counted_as_lost(room: EvaluationRoom) -> None:
    vocabulary = {token: index for index, token in enumerate(["<|bos|>", "<|end|>", *"abcdefghijklmnopqrstuvwxyz "])}
    letters = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[])), bos_token="<|bos|>", eos_token="<|end|>"
    )
    save_bigram(room.root / "letters", np.full((len(letters),) * 2, -np.log(len(letters))), letters)
    room.write("shouting", [{"text": "plain words"}] * 8 + [{"text": "Words 123"}])
    facts = room.evaluate("letters", "shouting", "perplexity", job="lost")["facts"]
    assert facts["lost_bytes"] == 4  # W, 1, 2, 3
    assert "lost_bytes" not in room.evaluate("uniform", "shouting", "perplexity", job="kept")["facts"]


def test_conversations_are_scored_on_the_answers_and_their_end_token_only(room: EvaluationRoom) -> None:
    rows = [{"prompt": f"Say {index}", "completion": "hat"} for index in range(9)]
    room.write("chats", rows)
    scores = room.evaluate("writes_hat", "chats", "perplexity", job="chats")
    assert scores["facts"]["used_chat_template"] is True
    assert scores["facts"]["tokens"] == 4 * len(rows)  # h, a, t, end
    log_p, tokenizer = chain_bigram("hat"), byte_tokenizer()
    answer = [
        tokenizer.convert_tokens_to_ids("<|assistant|>"),
        *tokenizer.encode("hat", add_special_tokens=False),
        tokenizer.eos_token_id,
    ]
    nll = -sum(log_p[a, b] for a, b in itertools.pairwise(answer))
    assert scores["bits_per_byte"]["value"] == pytest.approx(nll / 3 / math.log(2), abs=1e-5)


def test_multiple_choice_follows_the_oracles_table(room: EvaluationRoom) -> None:
    log_p, tokenizer = random_bigram(1), byte_tokenizer()
    draw = np.random.default_rng(0)
    rows = [
        {
            "question": f"q{i}",
            "choices": ["".join(draw.choice(list("abcdef"), size=n)) for n in (2, 4, 3)],
            "answer": i % 3,
        }
        for i in range(40)
    ]
    room.write("choices", rows)
    reporter = Remembering()
    scores = room.evaluate("bigram", "choices", "multiple_choice", job="choices", reporter=reporter)

    def logprob(row: dict[str, object], choice: str) -> float:
        ids = tokenizer.encode(f"{row['question']} {choice}", add_special_tokens=False)
        start = len(tokenizer.encode(str(row["question"]), add_special_tokens=False))
        return float(sum(log_p[ids[i - 1], ids[i]] for i in range(start, len(ids))))

    sums = [[logprob(row, choice) for choice in row["choices"]] for row in rows]
    right = [int(np.argmax(s)) == row["answer"] for s, row in zip(sums, rows, strict=True)]
    normed = [
        np.argmax([a / len(c) for a, c in zip(s, row["choices"], strict=True)]) == row["answer"]
        for s, row in zip(sums, rows, strict=True)
    ]
    assert scores["acc"]["value"] == pytest.approx(np.mean(right))
    assert scores["acc_norm"]["value"] == pytest.approx(np.mean(normed))
    assert scores["facts"]["chance"] == pytest.approx(1 / 3)
    shown = {item["position"]: item["shown"]["logprobs"] for item in reporter.of("item")}
    assert np.allclose([shown[i] for i in range(len(rows))], sums, atol=1e-4)


@pytest.mark.parametrize("chat", ["off", "on"])
def test_a_choice_that_spells_a_special_token_is_text(room: EvaluationRoom, chat: str) -> None:
    end = str(byte_tokenizer().eos_token)
    rows = [{"question": f"q{i}", "choices": ["ab", end], "answer": 0} for i in range(5)]
    scores = room.evaluate("writes_hat", room.write("spelled", rows), "multiple_choice", job="spelled", chat=chat)
    assert scores["facts"]["used_chat_template"] is (chat == "on")
    assert scores["acc"]["value"] == 1.0, "as one token the end would be likelier than two letters"


def test_ties_share_the_credit_so_a_uniform_network_scores_chance(room: EvaluationRoom) -> None:
    rows = [{"question": f"q{i}", "choices": ["abc", "def", "ghi", "jkl"], "answer": 0} for i in range(20)]
    scores = room.evaluate("uniform", room.write("ties", rows), "multiple_choice", job="ties")
    assert scores["acc"]["value"] == scores["acc_norm"]["value"] == 0.25  # taking the first of a tie would score 1
    assert 0 < scores["acc"]["low"] < 0.25 < scores["acc"]["high"] < 1
    assert credit([-1.0, -1.0, -2.0], 2) == 0


def test_greedy_answers_of_an_oracle_are_graded_exactly(room: EvaluationRoom) -> None:
    rows = [
        {"question": "1 h", "answers": ["HAT!"]},  # the oracle goes on "at", so the answer after "h" is "at"
        {"question": "2 h", "answers": ["at"]},
        {"question": "3 h", "answers": ["cat"]},
    ]
    reporter = Remembering()
    scores = room.evaluate(
        "writes_hat",
        room.write("answers", rows),
        "generation",
        job="answers",
        reporter=reporter,
        chat="off",
        max_tokens=8,
    )
    assert {item["shown"]["completion"] for item in reporter.of("item")} == {"at"}
    assert scores["exact_match"]["value"] == scores["contains"]["value"] == pytest.approx(1 / 3)


def test_an_answer_longer_than_the_context_ends_with_it_and_is_counted(room: EvaluationRoom) -> None:
    """A longest answer of 8,192 tokens was refused on a context of 64; a task's was cut and counted."""
    rows = [{"question": f"{i} h", "answers": ["at"]} for i in range(3)]
    reporter = Remembering()
    scores = room.evaluate(
        "uniform", room.write("long", rows), "generation", job="long", reporter=reporter, chat="off", max_tokens=8192
    )
    assert len(reporter.of("item")) == scores["exact_match"]["n"] == scores["facts"]["capped_items"] == 3


def test_examples_are_shown_before_the_question_and_not_scored(room: EvaluationRoom) -> None:
    rows = [{"question": f"{i} h", "answers": ["at"]} for i in range(6)]
    reporter = Remembering()
    scores = room.evaluate(
        "writes_hat",
        room.write("shots", rows),
        "generation",
        job="shots",
        reporter=reporter,
        chat="off",
        max_tokens=8,
        shots=2,
    )
    assert scores["exact_match"]["n"] == 4
    assert scores["exact_match"]["value"] == 1.0


def test_limit_draws_the_same_items_for_every_checkpoint(room: EvaluationRoom) -> None:
    seen = []
    for index, checkpoint in enumerate(("uniform", "bigram")):
        reporter = Remembering()
        room.evaluate(checkpoint, "texts", "perplexity", job=f"limit{index}", reporter=reporter, limit=9, seed=4)
        seen.append([item["item_hash"] for item in reporter.of("item")])
    assert seen[0] == seen[1]
    assert len(seen[0]) == 9


def test_equal_rows_are_items_of_their_own(room: EvaluationRoom) -> None:
    rows = [{"question": "q", "choices": ["a", "b"], "answer": 0}] * 3
    reporter = Remembering()
    scores = room.evaluate("bigram", room.write("twins", rows), "multiple_choice", job="twins", reporter=reporter)
    assert scores["acc"]["n"] == 3
    assert len({item["item_hash"] for item in reporter.of("item")}) == 3


def test_stopped_evaluation_keeps_its_items_and_a_new_attempt_scores_only_the_rest(room: EvaluationRoom) -> None:
    first = Remembering(stop_after=4)
    with pytest.raises(JobFailed, match="stopped on request"):
        room.evaluate("bigram", "texts", "perplexity", job="stopped", reporter=first, batch_size=4)
    recorded = {item["item_hash"] for item in first.of("item")}
    second = Remembering()
    scores = room.evaluate("bigram", "texts", "perplexity", job="stopped", reporter=second, batch_size=4)
    again = {item["item_hash"] for item in second.of("item")}
    assert len(recorded) == 4
    assert not recorded & again
    assert len(recorded | again) == len(TEXTS)
    assert scores["bits_per_byte"] == room.evaluate("bigram", "texts", "perplexity", job="undisturbed")["bits_per_byte"]


@pytest.mark.parametrize(
    ("dataset", "kind", "words"),
    [
        ("texts", "multiple_choice", "a multiple-choice question"),
        ("texts", "generation", "no question with answers"),
    ],
)
def test_rows_that_do_not_suit_the_scoring_are_refused_by_number(
    room: EvaluationRoom, dataset: str, kind: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=f"Row 1 .*{words}|Row 1 is {words}|Row 1 has {words}"):
        room.evaluate("uniform", dataset, kind, job=f"refused {kind}")


def test_missing_split_and_missing_checkpoint_are_named(room: EvaluationRoom, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no split 'val'"):
        room.evaluate("uniform", "texts", "perplexity", job="split", split="val")
    with pytest.raises(NotFound, match="no_such"):
        room.evaluate("no_such", "texts", "perplexity", job="checkpoint")
