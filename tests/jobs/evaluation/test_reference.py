"""The room's numbers equal those of lm-evaluation-harness on the same checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs.modeling.checkpoints import load_network, load_tokenizer
from tests.support.evaluation_rooms import EvaluationRoom, Remembering
from tests.support.networks.oracles import save_random

QUESTIONS = [
    {
        "question": f"The {thing} of {name} is",
        "choices": [f" {colour} and {'very ' * n}old" for n, colour in enumerate(("red", "blue", "très grand"))],
        "answer": 1,
    }
    for thing in ("lamp", "boat", "song")
    for name in ("Mira", "Tom", "Ada")
]
TEXTS = ["Short.", "A text as long as two or three windows. " * 4, *(f"Text {i} of some length, été." for i in range(8))]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> EvaluationRoom:
    room = EvaluationRoom(tmp_path_factory.mktemp("reference"))
    save_random(room.root / "random", context=64)
    room.write("choices", QUESTIONS)
    room.write("texts", [{"text": text} for text in TEXTS])
    return room


def test_loglikelihoods_choices_and_bits_per_byte_equal_lm_evaluation_harness(room: EvaluationRoom) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM  # slow to import

    tokenizer = load_tokenizer(room.root / "random")
    network = load_network(room.root / "random")
    harness = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, max_length=64)
    reporter = Remembering()
    scores = room.evaluate("random", "choices", "multiple_choice", job="choices", reporter=reporter)
    pairs = [(row["question"], choice) for row in QUESTIONS for choice in row["choices"]]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    theirs = np.array([logprob for logprob, _ in harness.loglikelihood(requests, disable_tqdm=True)]).reshape(len(QUESTIONS), 3)
    ours = np.array([item["shown"]["logprobs"] for item in sorted(reporter.of("item"), key=lambda item: item["position"])])
    assert np.abs(ours - theirs).max() <= 1e-4
    assert np.array_equal(ours.argmax(-1), theirs.argmax(-1))
    assert scores["acc"]["value"] == pytest.approx(float((theirs.argmax(-1) == 1).mean()))

    plain = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, max_length=64, add_bos_token=False)
    rolling = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(TEXTS)]
    nll = -sum(plain.loglikelihood_rolling(rolling, disable_tqdm=True))
    expected = nll / sum(len(text.encode()) for text in TEXTS) / math.log(2)
    scores = room.evaluate("random", "texts", "perplexity", job="texts", windows="first_window")
    assert scores["bits_per_byte"]["value"] == pytest.approx(expected, abs=1e-6)
