"""The fast engine beside lm-evaluation-harness's HFLM: `python -m tests.benchmarks.bench_evaluation FILE.json
[--checkpoint FOLDER]`.

Same weights in fp32, same prompts, same number of threads, one process, in turns. Counted are CPU seconds of the
process, which other work on the machine hardly changes, from texts to results: both tokenise. HFLM runs as its
maintainers would run it, at the best of three batch sizes. Without `--checkpoint` the network is made here: random
weights, 32,000 entries, 6 layers of width 256.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from jobs.evaluation.engines.base import PromptRequest, Sampling, ScoreRequest
from jobs.evaluation.engines.fast import FastEngine
from jobs.evaluation.subject import EvaluatedNetwork, load_subject
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import train_bpe
from tests.support.evaluation_rooms import score_request
from tests.support.training_rooms import make_stories

TEXT = """River stone carries the slow evening over a small bridge while nobody remembers why seven ships left harbour early that
winter and the mayor wrote long letters about bread prices machines weather glass copper music roads schools gardens doctors paper"""  # noqa: E501
WORDS = TEXT.lower().split()
BATCH_SIZES = [8, 16, 32]
CONTEXT, VOCABULARY = 1024, 32_000
Answer = list[tuple[float, bool]]


def make_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with random weights, large enough that its distributions are far from uniform."""
    texts = [sentence(random.Random(seed), 40) for seed in range(400)] + make_stories(200)
    tokenizer = train_bpe(texts, vocab_size=4096, context=CONTEXT)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(1)
    save_checkpoint(folder, model=transformers.LlamaForCausalLM(config), tokenizer=tokenizer, meta={})
    return folder


def sentence(draw: random.Random, words: int) -> str:
    """Return a sentence of this many words."""
    return " ".join(draw.choice(WORDS) for _ in range(words)).capitalize() + "."


def choices(items: int, *, shots: int, words: int, question: int) -> list[ScoreRequest]:
    """Return multiple-choice questions with four choices of `words` words, after the same solved examples."""
    draw = random.Random(7)
    solved = "".join(f"Question: {sentence(draw, 40)}\nAnswer: {sentence(draw, words)}\n\n" for _ in range(shots))
    return [
        score_request(
            f"{solved}Question: {sentence(draw, question)}\nAnswer:", [f" {sentence(draw, words)}" for _ in range(4)]
        )
        for _ in range(items)
    ]


def prompts(items: int, *, max_tokens: int, shots: int = 0) -> list[PromptRequest]:
    """Return prompts of uneven length, after the same solved examples, whose answers end at a line break, as those of a
    harness do.
    """
    draw = random.Random(8)
    solved = "".join(f"Question: {sentence(draw, 40)}\nAnswer: {sentence(draw, 20)}\n\n" for _ in range(shots))
    texts = [f"{solved}Question: {sentence(draw, draw.randint(8, 60))}\nAnswer:" for _ in range(items)]
    return [PromptRequest(text, stop=("\n",), sampling=Sampling(max_tokens=max_tokens)) for text in texts]


def documents(items: int) -> list[str]:
    """Return texts of 30 to 900 words."""
    draw = random.Random(9)
    return [" ".join(sentence(draw, 15) for _ in range(draw.randint(2, 60))) for _ in range(items)]


def harness(subject: EvaluatedNetwork, batch_size: int) -> Any:
    """Return HFLM around the same network. Documents begin with one begin token, as ours do."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=subject.network, tokenizer=subject.tokenizer, batch_size=batch_size, max_length=subject.context
    )


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    """Return requests as the harness takes them."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, argument, index) for index, argument in enumerate(arguments)]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of some work, with its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(
    ours: Callable[[], Any], theirs: dict[int, Callable[[], Any]], *, turns: int, gap: Callable[[Any, Any], float]
) -> dict[str, Any]:
    """Time both in turns and return medians, the factor and the largest difference."""
    first = {size: timed(work)[0] for size, work in theirs.items()}
    best = min(first, key=first.__getitem__)
    own, other, worst = [], [], 0.0
    for _ in range(turns):
        own_s, result = timed(ours)
        other_s, reference = timed(theirs[best])
        own.append(own_s)
        other.append(other_s)
        worst = max(worst, gap(result, reference))
    return {
        "ours_s": round(statistics.median(own), 2),
        "theirs_s": round(statistics.median(other), 2),
        "factor": round(statistics.median(other) / statistics.median(own), 2),
        "their_batch_size": best,
        "theirs_by_batch_size_s": {size: round(seconds, 2) for size, seconds in first.items()},
        "largest_difference": worst,
    }


def collect(batches: Any) -> list[Any]:
    """Return an engine's results in order."""
    return [result for _, result in sorted((pair for batch in batches for pair in batch), key=lambda pair: pair[0])]


def compare_scores(subject: EvaluatedNetwork, requests: list[ScoreRequest], *, turns: int) -> dict[str, Any]:
    """Compare log-likelihoods."""
    pairs = instances("loglikelihood", [pair for request in requests for pair in request.pairs])
    return compare(
        lambda: [score.sum_logprob for scores in collect(FastEngine(subject).score(requests)) for score in scores],
        {
            size: lambda size=size: [p for p, _ in harness(subject, size).loglikelihood(pairs, disable_tqdm=True)]
            for size in BATCH_SIZES
        },
        turns=turns,
        gap=lambda mine, reference: max(abs(a - b) for a, b in zip(mine, reference, strict=True)),
    )


def compare_answers(subject: EvaluatedNetwork, requests: list[PromptRequest], *, turns: int) -> dict[str, Any]:
    """Compare greedy answers; the difference is the share of unequal ones."""
    settings = {"until": ["\n"], "max_gen_toks": requests[0].sampling.max_tokens, "do_sample": False}
    pairs = instances("generate_until", [(request.prompt, dict(settings)) for request in requests])
    return compare(
        lambda: [answers[0].text for answers in collect(FastEngine(subject).generate(requests))],
        {
            size: lambda size=size: harness(subject, size).generate_until(pairs, disable_tqdm=True)
            for size in BATCH_SIZES
        },
        turns=turns,
        gap=lambda mine, reference: sum(a != b for a, b in zip(mine, reference, strict=True)) / len(mine),
    )


def compare_documents(subject: EvaluatedNetwork, texts: list[str], *, turns: int) -> dict[str, Any]:
    """Compare rolling log-likelihoods of whole documents."""

    def run(size: int) -> list[float]:
        engine = harness(subject, size)
        engine.add_bos_token = False  # or it would put the begin token there twice
        return [
            -total
            for total in engine.loglikelihood_rolling(
                instances("loglikelihood_rolling", [(text,) for text in texts]), disable_tqdm=True
            )
        ]

    return compare(
        lambda: [nll.sum_nll for nll in collect(FastEngine(subject).roll(texts, policy="first_window"))],
        {size: lambda size=size: run(size) for size in BATCH_SIZES},
        turns=turns,
        gap=lambda mine, reference: max(abs(a - b) for a, b in zip(mine, reference, strict=True)),
    )


def main() -> None:
    """Run the cases and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument(
        "--cases",
        nargs="*",
        default=["five-shot", "zero-shot", "one token", "generation", "five-shot generation", "perplexity"],
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    BATCH_SIZES[:] = args.batch_sizes
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as home:
        subject = load_subject(args.checkpoint or make_checkpoint(Path(home) / "made"))
    n, turns = args.items, args.turns
    cases: dict[str, Callable[[], dict[str, Any]]] = {
        "five-shot": lambda: compare_scores(subject, choices(n, shots=5, words=8, question=25), turns=turns),
        "zero-shot": lambda: compare_scores(subject, choices(4 * n, shots=0, words=6, question=25), turns=turns),
        "one token": lambda: compare_scores(subject, letters(2 * n), turns=turns),
        "generation": lambda: compare_answers(subject, prompts(n, max_tokens=48), turns=turns),
        "five-shot generation": lambda: compare_answers(subject, prompts(n, max_tokens=48, shots=5), turns=turns),
        "perplexity": lambda: compare_documents(subject, documents(n), turns=turns),
    }
    figures = {}
    for name in args.cases:
        figures[name] = cases[name]()
        print(name, json.dumps(figures[name]), flush=True)
    args.out.write_text(
        json.dumps({"threads": args.threads, "torch": torch.__version__, "cases": figures}, indent=1) + "\n"
    )


def letters(items: int) -> list[ScoreRequest]:
    """Return five-shot questions that are answered by a letter, as MMLU's are."""
    draw = random.Random(10)

    def asked() -> str:
        options = "".join(f"{letter}. {sentence(draw, 6)}\n" for letter in "ABCD")
        return f"{sentence(draw, 20)}\n{options}Answer:"

    solved = "".join(f"{asked()} {draw.choice('ABCD')}\n\n" for _ in range(5))
    return [score_request(solved + asked(), [" A", " B", " C", " D"]) for _ in range(items)]


if __name__ == "__main__":
    main()
