"""Choose the next token of each row of a batch by the row's own parameters. Independent of engines.

Sampled rows draw by the inverse of the cumulative distribution (Devroye, Non-Uniform Random Variate Generation, 1986,
section III.2), with one uniform number per row and position, which is a function of the request's seed alone: the same
seed draws the same completion whatever shares the batch. Nothing sorts a vocabulary: the largest scores are found among
the blocks with the largest maxima.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from backend.domain.serving.protocol import INVALID, REQUEST_FAILED, SamplingParams
from backend.errors import InvalidInput

logger = logging.getLogger(__name__)
BLOCKS = 64  # tokens per block of a vocabulary
SHORTLIST, LONG_SHORTLIST = 64, 1024  # most likely tokens that are tried for top-p before all are sorted
IMPOSSIBLE = -9999.0  # OpenAI's log-probability of a token that cannot come
GOLDEN, MIX_1, MIX_2, MASK = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 2**64 - 1


class Matcher(Protocol):
    """A constraint on the text of one request."""

    def allowed(self) -> torch.Tensor:
        """Return which tokens may come next, bool [vocabulary of the network]."""

    def take(self, token: int) -> None:
        """Note the token that was chosen."""


@dataclass(frozen=True)
class TokenLogprobs:
    """A chosen token's natural-log probability, and the most likely tokens with theirs, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass
class SamplingState:
    """The state of one request's sampling. `records` grows with each token if probabilities are asked for."""

    params: SamplingParams
    seed: int
    matcher: Matcher | None = None
    fault: str = ""  # why this request can draw no further
    fault_code: str = REQUEST_FAILED
    prompt: Sequence[int] = ()
    end_ids: tuple[int, ...] = ()  # tokens that would end the answer
    drawn: int = 0
    records: list[TokenLogprobs] = field(default_factory=list)
    _counts: dict[int, int] = field(default_factory=dict)
    _begun: tuple[int, ...] = ()
    _shift: torch.Tensor | None = None
    _seen: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        params: SamplingParams,
        *,
        repetition: int = 0,
        matcher: Matcher | None = None,
        prompt: Sequence[int] = (),
        end_ids: Sequence[int] = (),
    ) -> SamplingState:
        """Return the state of a request's start. A seed is drawn if none is given; repetitions of a request have seeds
        of their own.
        """
        seed = secrets.randbits(62) if params.seed is None else params.seed + repetition * GOLDEN
        return cls(params=params, seed=seed & MASK, matcher=matcher, prompt=prompt, end_ids=tuple(end_ids))

    @property
    def is_plain(self) -> bool:
        """Return whether the scores of the next token are the network's own."""
        params = self.params
        has_penalties = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
        return not (self.matcher or params.logit_bias or has_penalties or self.must_go_on)

    @property
    def must_go_on(self) -> bool:
        """Return whether the next token must not end the answer."""
        return self.drawn < self.params.min_tokens and bool(self.end_ids)

    @property
    def is_greedy(self) -> bool:
        """Return whether the most likely token is always taken."""
        return self.params.temperature == 0.0

    def shift(self, like: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the logits of one row `like` [vocabulary]: biases and penalties; None without."""
        params = self.params
        if self._shift is None and (params.logit_bias or params.presence_penalty or params.frequency_penalty):
            shift = torch.zeros_like(like)
            if params.logit_bias:  # in one step: on a GPU each assignment is a kernel of its own
                biases: dict[int, float] = {}
                for token, bias in params.logit_bias:
                    biases[token] = biases.get(token, 0.0) + bias
                shift[list(biases)] = torch.tensor(list(biases.values()), dtype=like.dtype, device=like.device)
            for token in self._begun:
                self._penalise(shift, token)
            self._shift = shift
        return self._shift

    def repeated(self, like: torch.Tensor) -> torch.Tensor | None:
        """Return which tokens the prompt and the answer hold, bool [vocabulary]; None without a penalty for them."""
        if self._seen is None and self.params.repetition_penalty != 1.0:
            repeated = torch.zeros_like(like, dtype=torch.bool)
            repeated[torch.tensor([*self.prompt, *self._begun], dtype=torch.long, device=like.device)] = True
            self._seen = repeated
        return self._seen

    def replay(self, tokens: Sequence[int]) -> None:
        """Note tokens that another process chose, before the first of one's own."""
        self._begun = tuple(tokens)
        for token in tokens:
            self.allowed()  # a constraint plans the end of its text as it is asked
            self.take(token)

    def take(self, token: int) -> None:
        """Note a chosen token: penalties are updated at this token alone."""
        self.drawn += 1
        with self._own_faults():
            if self._shift is not None:
                self._penalise(self._shift, token)
            if self._seen is not None:
                self._seen[token] = True
            if self.matcher is not None:
                self.matcher.take(token)

    def _penalise(self, shift: torch.Tensor, token: int) -> None:
        params = self.params
        if params.presence_penalty or params.frequency_penalty:
            count = self._counts[token] = self._counts.get(token, 0) + 1
            shift[token] -= params.frequency_penalty + (params.presence_penalty if count == 1 else 0.0)

    def allowed(self) -> torch.Tensor | None:
        """Return which tokens the constraint allows, bool [vocabulary]; None without one, or where it fails."""
        if self.matcher is not None:
            with self._own_faults():
                return self.matcher.allowed()
        return None

    @contextmanager
    def _own_faults(self) -> Iterator[None]:
        """End the drawing at an error of this request's own parts: it must end this request, not the batch."""
        try:
            yield
        except BaseException as error:  # a library in Rust panics with an exception that is no Exception
            logger.exception("A request can draw no further.")
            self.end(error)

    def end(self, error: BaseException) -> None:
        """Note the error that ends this request."""
        is_clients = isinstance(error, InvalidInput)
        self.matcher, self.fault_code = None, INVALID if is_clients else REQUEST_FAILED
        self.fault = (str(error) if is_clients else f"{type(error).__name__}: {error}")[:300]

    def uniform(self) -> float:
        """Return this position's number in [0, 1): SplitMix64 of the seed (Steele et al., OOPSLA 2014, figure 17)."""
        return ((mix64(mix64(self.seed) + self.drawn * GOLDEN)) >> 11) * 2.0**-53


def mix64(value: int) -> int:
    """Return SplitMix64's finaliser of a number of 64 bits."""
    value = (value + GOLDEN) & MASK
    value = ((value ^ (value >> 30)) * MIX_1) & MASK
    value = ((value ^ (value >> 27)) * MIX_2) & MASK
    return value ^ (value >> 31)


def choose_tokens(logits: torch.Tensor, draws: Sequence[SamplingState]) -> list[int]:
    """Return each row's next token and note it in the row's state. `logits`: float32 [rows, vocabulary]; they are not
    changed.

    A row that no token can be chosen for has a fault afterwards, and the others their tokens. Raises what every row
    fails with.
    """
    try:
        tokens, records = _choose(logits, draws)
    except Exception as error:
        tokens, records = _choose_apart(logits, draws, error)
    for draw, token, record in zip(draws, tokens, records, strict=True):
        if record is not None:
            draw.records.append(record)
        draw.take(token)
    return tokens


def _choose_apart(
    logits: torch.Tensor, draws: Sequence[SamplingState], error: Exception
) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Choose row by row after a batch failed. Raises the batch's error if the device itself fails."""
    try:
        tokens: list[int] = logits.argmax(-1).tolist()
    except Exception:
        raise error from None
    records: list[TokenLogprobs | None] = [None] * len(draws)
    for row, draw in enumerate(draws):
        try:
            (tokens[row],), (records[row],) = _choose(logits[row : row + 1], [draw])
        except Exception as own:
            logger.exception("No token can be chosen for a request, which ends; the others of its batch continue.")
            draw.end(own)
    return tokens, records


def _choose(logits: torch.Tensor, draws: Sequence[SamplingState]) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Return each row's token and, where the row asks for it, its record. Changes nothing that a second call would not
    find as it was.
    """
    scores = _adjust(logits, draws)
    chosen = (
        scores.argmax(-1)
        if any(draw.is_greedy for draw in draws)
        else torch.zeros(len(draws), dtype=torch.long, device=logits.device)
    )
    sampled = [row for row, draw in enumerate(draws) if not draw.is_greedy]
    if sampled:
        rows = scores if len(sampled) == len(draws) else scores[sampled]
        chosen[sampled] = _draw(rows, [draws[row] for row in sampled])
    tokens: list[int] = chosen.tolist()
    return tokens, _records(logits, draws, tokens)


def forced_scores(logits: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """Return scores like `logits` whose argmax is each row's token, for libraries that take the argmax."""
    index = torch.tensor(tokens, device=logits.device).unsqueeze(-1)
    return torch.zeros_like(logits).scatter_(1, index, 1.0)


def _adjust(logits: torch.Tensor, draws: Sequence[SamplingState]) -> torch.Tensor:
    """Return logits with penalties, biases and constraints; the same tensor where no row has any."""
    scores = logits
    for row, draw in enumerate(draws):
        if draw.is_plain:
            continue
        scores = logits.clone() if scores is logits else scores
        if (repeated := draw.repeated(logits[row])) is not None:
            penalty = draw.params.repetition_penalty
            penalised = torch.where(scores[row] < 0, scores[row] * penalty, scores[row] / penalty)
            scores[row] = torch.where(repeated, penalised, scores[row])
        if (shift := draw.shift(logits[row])) is not None:
            scores[row] += shift
        if draw.must_go_on:
            scores[row, list(draw.end_ids)] = -torch.inf
        if (allowed := draw.allowed()) is not None:
            scores[row].masked_fill_(~allowed.to(logits.device), -torch.inf)
    return scores


def _records(logits: torch.Tensor, draws: Sequence[SamplingState], tokens: list[int]) -> list[TokenLogprobs | None]:
    records: list[TokenLogprobs | None] = [None] * len(draws)
    rows = [row for row, draw in enumerate(draws) if draw.params.logprobs is not None]
    if not rows:
        return records
    picked = logits[rows]
    numbers = [draws[row].params.logprobs or 0 for row in rows]
    described = token_logprobs(picked, torch.tensor([tokens[row] for row in rows], device=logits.device), numbers)
    for row, record in zip(rows, described, strict=True):
        records[row] = record
    return records


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, numbers: Sequence[int]) -> list[TokenLogprobs]:
    """Return the natural-log probability of each row's token, and as many of the most likely ones as `numbers` says.

    Shapes: float32 [rows, vocabulary], int64 [rows].
    """
    norm = logits.logsumexp(-1, keepdim=True)
    chosen: list[float] = (logits.gather(1, tokens.unsqueeze(-1)) - norm).squeeze(-1).clamp(min=IMPOSSIBLE).tolist()
    most = min(max(numbers), logits.shape[-1])
    values, ids = largest(logits, most) if most else (logits[:, :0], tokens.unsqueeze(-1)[:, :0])
    tops = zip(ids.tolist(), (values - norm).clamp(min=IMPOSSIBLE).tolist(), strict=True)
    return [
        TokenLogprobs(lp, tuple(zip(i[:n], v[:n], strict=True)))
        for lp, n, (i, v) in zip(chosen, numbers, tops, strict=True)
    ]


def largest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count` largest scores of each row, best first, and their ids.

    Equals `torch.topk`, and sorts a small part of the vocabulary: the largest `count` lie in the `count` blocks with
    the largest maxima.
    """
    rows, width = scores.shape
    num_blocks = width // BLOCKS
    if num_blocks < 4 * count:
        return torch.topk(scores, min(count, width))
    grid = scores[:, : num_blocks * BLOCKS].view(rows, BLOCKS, num_blocks)
    blocks = torch.topk(grid.amax(1), count).indices  # [rows, count]
    members = torch.arange(BLOCKS, device=scores.device) * num_blocks
    rest = torch.arange(num_blocks * BLOCKS, width, device=scores.device).expand(rows, -1)
    ids = torch.cat([(blocks.unsqueeze(-1) + members).view(rows, -1), rest], dim=1)
    values, at = torch.topk(scores.gather(1, ids), count)
    return values, ids.gather(1, at)


def _draw(scores: torch.Tensor, draws: list[SamplingState]) -> torch.Tensor:
    """Return one drawn token per row [rows]."""
    params = [draw.params for draw in draws]
    device = scores.device
    scaled = scores / torch.tensor([[max(p.temperature, 1e-4)] for p in params], device=device)
    uniform = torch.tensor([[draw.uniform()] for draw in draws], dtype=torch.float64, device=device)
    tokens = torch.empty(len(draws), dtype=torch.long, device=device)
    filtered = [row for row, p in enumerate(params) if p.top_k or p.top_p < 1.0 or p.min_p]
    plain = sorted(set(range(len(params))) - set(filtered))
    if plain:
        tokens[plain] = _draw_from_all(scaled[plain], uniform[plain])
    if filtered:
        picked = scaled[filtered]
        width = picked.shape[-1]
        top_k = [min(params[row].top_k or width, width) for row in filtered]
        top_p = torch.tensor([[params[row].top_p] for row in filtered], dtype=torch.float64, device=device)
        min_p = torch.tensor([[params[row].min_p] for row in filtered], dtype=torch.float64, device=device)
        tokens[filtered] = _draw_from_likely(picked, uniform[filtered], top_k, top_p=top_p, min_p=min_p)
    return tokens


def _draw_from_all(scaled: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw from the whole vocabulary: first a block by the blocks' probabilities, then a token of the block."""
    rows, width = scaled.shape
    num_blocks = -(-width // BLOCKS)
    weights = (scaled - scaled.amax(-1, keepdim=True)).exp_()
    padded = torch.nn.functional.pad(weights, (0, num_blocks * BLOCKS - width)).view(rows, BLOCKS, num_blocks)
    block_sums = padded.sum(1).double().cumsum(-1)
    target = uniform * block_sums[:, -1:]
    block = torch.searchsorted(block_sums, target, right=True).clamp_(max=num_blocks - 1)
    before = torch.where(block > 0, block_sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    members = padded.gather(2, block.unsqueeze(1).expand(-1, BLOCKS, 1)).squeeze(-1).double().cumsum(-1)
    # both sums are the same tokens in another order of rounding, so the target may lie a rounding beyond the block's
    # end
    inside = (target - before).clamp(min=0.0).minimum(members[:, -1:] * (1 - 2.0**-40))
    return (torch.searchsorted(members, inside, right=True) * num_blocks + block).squeeze(-1)


def _draw_from_likely(
    scaled: torch.Tensor,
    uniform: torch.Tensor,
    top_k: Sequence[int],
    *,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    shortlist: int = SHORTLIST,
) -> torch.Tensor:
    """Draw from the most likely tokens: at most `top_k`, of these as many as together reach `top_p`, and of these the
    ones that are at least `min_p` times as likely as the first. All [rows, 1]; `top_k` is on the host, so that a GPU is
    waited for once a step: to know whether a longer list is needed.
    """
    width = scaled.shape[-1]
    most = torch.tensor(top_k, device=scaled.device).unsqueeze(-1)
    is_open = most >= width  # no top-k: top-p counts probability of the whole vocabulary
    total = (
        (scaled - scaled.amax(-1, keepdim=True)).exp_().sum(-1, keepdim=True, dtype=torch.float64)
        if max(top_k) >= width
        else None
    )
    count = min(width, max([shortlist, *(number for number in top_k if number < width)]))
    values, ids = largest(scaled, count) if count < width else torch.sort(scaled, descending=True)
    weights = (
        (values - values[:, :1]).double().exp_().masked_fill_(torch.arange(count, device=scaled.device) >= most, 0.0)
    )
    reached = weights.cumsum(-1)
    mass = reached[:, -1:] if total is None else torch.where(is_open, total, reached[:, -1:])
    least = weights[:, -1:].clone()
    weights = weights.masked_fill_(reached - weights >= top_p * mass, 0.0)  # the token that crosses top_p stays
    weights = weights.masked_fill_(weights < min_p, 0.0)  # the first weighs 1
    sums = weights.cumsum(-1)
    at = torch.searchsorted(sums, uniform * sums[:, -1:], right=True).clamp_(max=count - 1)
    tokens = ids.gather(1, at).squeeze(-1)
    short = ((reached[:, -1:] < top_p * mass) & (least >= min_p) & (count < width)).squeeze(-1)
    if bool(short.any()):  # flat distributions: a longer list, then all
        longer = LONG_SHORTLIST if count < LONG_SHORTLIST else width
        rows = [number for number, is_short in zip(top_k, short.tolist(), strict=True) if is_short]
        limits = {"top_p": top_p[short], "min_p": min_p[short]}
        tokens[short] = _draw_from_likely(scaled[short], uniform[short], rows, **limits, shortlist=longer)
    return tokens
