"""The fast engine: every distinct prefix is computed once, and the head runs on scored positions alone.

Numbers are those of the plain engine to 1e-4 nats. A network whose attention or state does not allow it is computed by
the plain engine, and the facts say why.

Answers are generated in batches that shrink: an answer that has ended leaves its batch, and what all prompts begin
with is computed once.
"""

from __future__ import annotations

import copy
import gc
import inspect
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from backend.errors import JobFailed
from jobs.evaluation.completions import GumbelNoise, check_prompt_lengths, end_tokens, read_answer
from jobs.evaluation.engines.base import (
    Answer,
    Answers,
    Batch,
    CheckStop,
    EngineFacts,
    PromptRequest,
    Sampling,
    ScoreRequest,
    Scores,
    WindowPolicy,
    never_stop,
    renumbered,
)
from jobs.evaluation.engines.plain import PlainEngine, answer_by_sampling, subject_facts
from jobs.evaluation.engines.shared_prefix import Row, RowScores, SharedPrefix, TokenTrie
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.memory_limit import available_bytes
from jobs.modeling.devices import free_bytes, is_out_of_memory, release_gpu_cache
from jobs.modeling.loglikelihood import (
    ScoredSequence,
    plan_pairs,
    plan_windows,
    score_continuations,
    sum_windows,
    window_nll,
)
from jobs.modeling.scores import ContinuationScore, Pair, TextNll
from jobs.modeling.tokenizers import count_token_bytes
from jobs.modeling.unusable import UNUSABLE, one_line

TAIL_TOKENS = 4
"""Tokens searched for a stop string beyond one for each of its characters: some tokens decode to nothing."""
MIN_SHARED_TOKENS = 16


@dataclass
class _Running:
    """An answer in the making: its place among the prompts, and its tokens."""

    index: int
    prompt: list[int]
    stops: Sequence[str]
    new: list[int] = field(default_factory=list)


class Decoder:
    """Answers prompts with one sampling."""

    def __init__(self, subject: EvaluatedNetwork, *, batch_size: int, check_stop: CheckStop) -> None:
        self._subject, self._batch_size, self._check_stop = subject, batch_size, check_stop
        self._cache_name = (
            "cache" if "cache" in inspect.signature(type(subject.network).forward).parameters else "past_key_values"
        )
        self._ends = end_tokens(subject)

    def answer(
        self, prompts: Sequence[list[int]], *, sampling: Sampling, stops: Sequence[Sequence[str]]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer), each as it ends. Prompts lose their beginning where `max_tokens` need the room."""
        room = self._subject.context - sampling.max_tokens
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for at in range(0, len(order), self._batch_size):
            running = [
                _Running(index, prompts[index][-room:], stops[index]) for index in order[at : at + self._batch_size]
            ]
            for one in self._run(running, sampling):
                text, tokens, reason = read_answer(self._subject.tokenizer, one.prompt, one.new, self._ends, one.stops)
                yield one.index, Answer(text, tokens, len(one.prompt), reason, max(0, len(prompts[one.index]) - room))

    @torch.inference_mode()
    def _run(self, running: list[_Running], sampling: Sampling) -> Iterator[_Running]:
        draw = GumbelNoise([one.prompt for one in running], sampling).rows if sampling.temperature > 0 else None
        cache, mask, logits = self._prefill(running)
        places = list(range(len(running)))
        for step in range(sampling.max_tokens):
            self._check_stop()
            if draw is not None:
                logits = draw(logits, places)
            tokens = logits.argmax(-1)
            listed = tokens.tolist()
            for one, token in zip(running, listed, strict=True):
                one.new.append(token)
            stopped, going = self._stopped(running), []
            for row, (one, token) in enumerate(zip(running, listed, strict=True)):
                if token in self._ends or step == sampling.max_tokens - 1 or stopped[row]:
                    yield one
                else:
                    going.append(row)
            if not going:
                return
            if len(going) < len(running):
                rows = torch.tensor(going, device=tokens.device)
                cache.batch_select_indices(rows)
                mask, tokens = mask[rows], tokens[rows]
                running, places = [running[row] for row in going], [places[row] for row in going]
            mask = torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)
            positions = mask.sum(-1, keepdim=True) - 1
            logits = self._forward(tokens[:, None], mask, positions, cache)

    def _stopped(self, running: Sequence[_Running]) -> list[bool]:
        """Return which answers hold one of their stop strings near their end."""
        longest = max((len(stop) for one in running for stop in one.stops), default=0)
        if not longest:
            return [False] * len(running)
        tails = self._subject.tokenizer.batch_decode(
            [one.new[-longest - TAIL_TOKENS :] for one in running], skip_special_tokens=True
        )
        return [any(stop in tail for stop in one.stops) for one, tail in zip(running, tails, strict=True)]

    def _prefill(self, running: Sequence[_Running]) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
        """Return the cache after all prompts, their mask and next tokens' logits; padding follows a common prefix."""
        device, prompts, cache = self._subject.network.device, [one.prompt for one in running], DynamicCache()
        shared = _shared(prompts)
        if shared >= MIN_SHARED_TOKENS and len(prompts) > 1:
            head = torch.tensor([prompts[0][:shared]], device=device)
            self._forward(head, torch.ones_like(head), torch.arange(shared, device=device)[None], cache)
            cache.batch_repeat_interleave(len(prompts))
        else:
            shared = 0
        longest = max(len(ids) for ids in prompts) - shared
        rest = [ids[shared:] for ids in prompts]
        ids = torch.tensor([[0] * (longest - len(part)) + part for part in rest], device=device)
        mask = torch.tensor(
            [[1] * shared + [0] * (longest - len(part)) + [1] * len(part) for part in rest], device=device
        )
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        return cache, mask, self._forward(ids, mask, positions, cache)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Return the logits after the last token of each row, in fp32."""
        more: dict[str, object] = {self._cache_name: cache}
        if ids.shape[1] == 1 and self._subject.network.config._attn_implementation == "sdpa":
            # a mask of four dimensions is taken as it is; of two, transformers makes one each time
            mask = mask[:, None, None, :].bool()
        output = self._subject.network(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1, **more
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def _shared(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all prompts begin with, leaving each at least one of its own."""
    first, last = min(prompts), max(prompts)  # in the order of their tokens these two differ first
    length = min(min(len(ids) for ids in prompts) - 1, len(first))
    return next((at for at in range(length) if first[at] != last[at]), length)


PAIRS_AT_ONCE = 2000
MIN_ROW_TOKENS = 32
ANSWERS_AT_ONCE = 32


class FastEngine:
    """Scores a subject on one device, or on several that each hold a copy. `batch_tokens` and `batch_size` bound a
    forward pass.

    0 tokens: by free memory; 0 sequences: any number.
    """

    name = "fast"

    def __init__(
        self,
        subject: EvaluatedNetwork,
        *,
        batch_size: int = 0,
        batch_tokens: int = 0,
        devices: Sequence[torch.device] = (),
        check_stop: CheckStop = never_stop,
    ) -> None:
        self._subject, self._check_stop, self._batch_size = subject, check_stop, batch_size
        self._batch_tokens = batch_tokens or row_tokens(subject.network)
        self._plain = PlainEngine(subject, batch_size=batch_size, check_stop=check_stop)
        self._fallback = reason_against_caching(subject.network)
        self._is_tested = bool(self._fallback)
        self._longest = longest_shared(subject.network)
        self._networks: list[PreTrainedModel] = [
            subject.network,
            *(copy.deepcopy(subject.network).to(other) for other in devices[1:]),
        ]

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Batch[Scores]]:
        """Yield log-likelihoods; see Engine.score."""
        if not self._shares():
            yield from self._plain.score(requests)
            return
        owners = [index for index, request in enumerate(requests) for _ in request.pairs]
        sequences = self._plan([pair for request in requests for pair in request.pairs])
        long = {owners[sequence.owner] for sequence in sequences if len(sequence.ids) > self._longest}
        waiting = {index: len(request.pairs) for index, request in enumerate(requests) if index not in long}
        results: dict[int, ContinuationScore] = {}
        starts = np.cumsum([0, *(len(request.pairs) for request in requests)])
        for row in self._score_sequences([sequence for sequence in sequences if owners[sequence.owner] in waiting]):
            finished = []
            for sequence, logprob, greedy in row:
                results[sequence.owner] = ContinuationScore(logprob, sequence.scored, greedy, sequence.cut)
                index = owners[sequence.owner]
                waiting[index] -= 1
                if not waiting[index]:
                    finished.append(
                        (index, tuple(results.pop(place) for place in range(starts[index], starts[index + 1])))
                    )
            if finished:
                yield finished
        yield from renumbered(self._plain.score([requests[index] for index in sorted(long)]), sorted(long))

    def generate(self, requests: Sequence[PromptRequest]) -> Iterator[Batch[Answers]]:
        """Yield answers; see Engine.generate."""
        if self._fallback or self._longest <= self._subject.context:
            yield from self._plain.generate(requests)
            return
        yield from answer_by_sampling(self._subject, requests, self._decode)

    def _decode(
        self, prompts: Sequence[list[int]], *, sampling: Sampling, stops: Sequence[Sequence[str]]
    ) -> Iterator[Batch[Answer]]:
        check_prompt_lengths(self._subject, prompts, max_tokens=sampling.max_tokens)
        decoder = Decoder(self._subject, batch_size=self._batch_size or ANSWERS_AT_ONCE, check_stop=self._check_stop)
        for index, answer in decoder.answer(prompts, sampling=sampling, stops=stops):
            yield [(index, answer)]

    def roll(self, texts: Sequence[str], *, policy: WindowPolicy = "each_window") -> Iterator[Batch[TextNll]]:
        """Yield negative log-likelihoods; see Engine.roll."""
        network, tokenizer = self._subject.network, self._subject.tokenizer
        if not self._shares() or self._longest <= self._subject.context:
            yield from self._plain.roll(texts, policy=policy)
            return
        sequences, sizes = plan_windows(tokenizer, texts, longest=self._subject.context, policy=policy)
        lengths = count_token_bytes(tokenizer, vocab_size=network.get_input_embeddings().num_embeddings)
        own: dict[int, list[ScoredSequence]] = {index: [] for index in range(len(sizes))}
        for sequence in sequences:
            own[sequence.owner].append(sequence)
        scores: dict[int, float] = {}
        waiting = {index: len(parts) for index, parts in own.items()}
        empty = [(index, sum_windows([], sizes[index])) for index, parts in own.items() if not parts]
        if empty:
            yield empty
        for row in self._score_sequences(sequences):
            finished = []
            for sequence, logprob, _ in row:
                scores[id(sequence)] = logprob
                index = sequence.owner
                waiting[index] -= 1
                if not waiting[index]:
                    windows = [window_nll(part, scores.pop(id(part)), lengths) for part in own[index]]
                    finished.append((index, sum_windows(windows, sizes[index])))
            if finished:
                yield finished

    def facts(self) -> EngineFacts:
        """Return what the engine computes with."""
        if self._fallback:
            return replace(self._plain.facts(), fallback=self._fallback)
        return replace(
            subject_facts(self._subject, name=self.name, batch_tokens=self._batch_tokens), devices=len(self._networks)
        )

    def _shares(self) -> bool:
        """Return whether the network can share prefixes; tested when it is first asked to."""
        if not self._is_tested:
            self._fallback, self._is_tested = reason_against_sharing(self._subject.network), True
        return not self._fallback

    def _plan(self, pairs: Sequence[Pair]) -> list[ScoredSequence]:
        sequences: list[ScoredSequence] = []
        for at in range(0, len(pairs), PAIRS_AT_ONCE):
            self._check_stop()
            part = plan_pairs(self._subject.tokenizer, pairs[at : at + PAIRS_AT_ONCE], longest=self._subject.context)
            sequences += [replace(sequence, owner=at + sequence.owner) for sequence in part]
        return sequences

    def _score_sequences(
        self, sequences: Sequence[ScoredSequence]
    ) -> Iterator[list[tuple[ScoredSequence, float, bool]]]:
        """Yield the scores of a row's sequences, row by row."""
        trie = TokenTrie(sequences)
        rows = trie.rows(self._batch_tokens, most=self._batch_size)
        workers = [_Worker(trie, network, piece_tokens=self._batch_tokens) for network in self._networks]
        if len(workers) == 1:
            for row in rows:
                self._check_stop()
                yield workers[0].score(row)
            return
        yield from _spread(workers, rows, self._check_stop)


class _Worker:
    """Scores rows of a trie on one device, in halves where memory runs out."""

    def __init__(self, trie: TokenTrie, network: PreTrainedModel, *, piece_tokens: int) -> None:
        self._trie, self._prefix = trie, SharedPrefix(network, piece_tokens=piece_tokens)

    def score(self, row: Row) -> list[tuple[ScoredSequence, float, bool]]:
        """Return the scores of a row's sequences. Raises JobFailed if one sequence alone does not fit into memory."""
        scores = self._try(row)
        if scores is None:
            self._prefix.forget()
            gc.collect(1)  # frames of the failed pass hold its tensors
            release_gpu_cache()
            if row.last - row.first > 1:
                middle = (row.first + row.last) // 2
                return self.score(replace(row, last=middle)) + self.score(replace(row, first=middle))
            if self._prefix.piece_tokens <= MIN_ROW_TOKENS:
                raise JobFailed(
                    "One item alone does not fit into memory.",
                    remedy="Choose a worker with more memory, or a shorter context.",
                )
            self._prefix.piece_tokens //= 2
            return self.score(row)
        sequences = self._trie.sequences[row.first : row.last]
        return list(zip(sequences, scores.logprobs.tolist(), scores.greedy.tolist(), strict=True))

    def _try(self, row: Row) -> RowScores | None:
        try:
            self._prefix.reach(self._trie.prefix(row))
            return self._prefix.score(self._trie.pack(row), sequences=row.last - row.first)
        except (
            RuntimeError,
            MemoryError,
        ) as error:  # a CUDA error is a RuntimeError, and so is that of the CPU's allocator
            if not is_out_of_memory(error):
                raise
            return None


def _spread(
    workers: Sequence[_Worker], rows: Iterable[Row], check_stop: CheckStop
) -> Iterator[list[tuple[ScoredSequence, float, bool]]]:
    """Yield the scores of rows as the workers, a thread each, finish them."""
    source, lock, ended = iter(rows), threading.Lock(), threading.Event()
    results: queue.Queue[Any] = queue.Queue(maxsize=4 * len(workers))

    def work(worker: _Worker) -> None:
        try:
            while not ended.is_set():
                with lock:
                    row = next(source, None)
                if row is None:
                    break
                results.put(worker.score(row))
            results.put(None)
        except BaseException as error:  # raised again where the results are read
            results.put(error)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        left = len(threads)
        while left:
            check_stop()
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                left -= 1
            else:
                yield result
    finally:
        ended.set()


TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_TOLERANCE = 0.5
"""Largest difference in nats between two ways of computing a few tokens; a wrong mask or position gives several."""
MEMORY_SHARE = 0.25
LOGIT_COPIES, ACTIVATION_COPIES = 3, 30
CPU_ROW_TOKENS, GPU_ROW_TOKENS = (64, 512), (512, 4096)
"""Least and most tokens of a row. Attention within a row costs the square of them; a CPU is no faster with more."""
NO_LIMIT = 1 << 40


def reason_against_caching(network: PreTrainedModel) -> str:
    """Return why a network's keys and values can't be kept between forward passes of our own; empty if they can."""
    config = network.config.get_text_config()
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {str(part.get("rope_type")) for part in (scaling, *scaling.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        return "its rotary positions depend on the longest sequence of a batch"
    if getattr(network, "_is_stateful", False):
        return "its recurrent state can't be cut back to a shared prefix"
    if "position_ids" not in inspect.signature(type(network).forward).parameters:
        return "its attention takes no positions of our own"
    return ""


def reason_against_sharing(network: PreTrainedModel) -> str:
    """Return why a network can't share prefixes; empty if it can. Compares both ways on a few tokens."""
    if reason := reason_against_caching(network):
        return reason
    try:
        difference = _difference(network)
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        return f"its attention takes no mask of our own ({one_line(error)[:120]})"
    if not difference <= TOLERANCE.get(network.dtype, HALF_TOLERANCE):
        return f"shared prefixes change its numbers by {difference:.2g}"
    return ""


def _difference(network: PreTrainedModel) -> float:
    """Return the largest difference between shared and plain scores of sequences that fork after a cached prefix."""
    vocab = network.get_input_embeddings().num_embeddings
    draw = np.random.default_rng(0)
    prefix, *rest = (draw.integers(0, vocab, size).astype(np.int32) for size in (5, 3, 4, 2))
    sequences = [
        ScoredSequence(place, np.concatenate([prefix, tail]), len(tail) - 1) for place, tail in enumerate(rest)
    ]
    sequences.append(ScoredSequence(3, np.concatenate([prefix, rest[1][:2], rest[2]]), 2))
    trie = TokenTrie(sequences)
    row = next(trie.rows(1 << 20))
    plain = score_continuations(
        network,
        None,
        [(one.ids[: -one.scored].tolist(), one.ids[-one.scored :].tolist()) for one in trie.sequences],
    )
    worst = 0.0
    for base in (0, len(prefix)):
        shared = SharedPrefix(network, piece_tokens=64)
        shared.reach(trie.sequences[0].ids[:base])
        scores = shared.score(trie.pack(type(row)(row.first, row.last, base)), sequences=len(sequences))
        gaps = np.abs(scores.logprobs - np.array([one.sum_logprob for one in plain]))
        worst = max(worst, float(gaps.max())) if np.isfinite(gaps).all() else worst
    return worst


def longest_shared(network: PreTrainedModel) -> int:
    """Return the length in tokens beyond which a sequence is computed alone, because attention has a window."""
    config = network.config.get_text_config()
    windows: list[Any] = [getattr(config, "attention_chunk_size", None), getattr(config, "sliding_window", None)]
    if getattr(config, "use_sliding_window", True) is False:
        windows.pop()
    windows.append(getattr(config, "window_size", None))
    return min((window for window in windows if isinstance(window, int) and window > 0), default=NO_LIMIT)


def row_tokens(network: PreTrainedModel) -> int:
    """Return the tokens that one forward pass may take, by the memory that is free."""
    config = network.config.get_text_config()
    per_token = (
        4 * LOGIT_COPIES * int(config.vocab_size) + ACTIVATION_COPIES * int(config.hidden_size) * network.dtype.itemsize
    )
    on_gpu = free_bytes(network.device)
    free = available_bytes() if on_gpu is None else on_gpu
    least, most = CPU_ROW_TOKENS if on_gpu is None else GPU_ROW_TOKENS
    fitting: int = int(MEMORY_SHARE * free) // per_token
    return max(least, min(most, fitting))
