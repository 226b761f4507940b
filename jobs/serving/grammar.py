"""Constrain answers to JSON, a schema, a regular expression or a grammar, by llguidance.

A matcher says before each step which tokens may come. As an answer nears its last allowed token, the matcher takes the
shortest known way to a complete text, so that JSON is not cut off in the middle.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from backend.domain.serving.protocol import Constraint, on_one_line
from backend.errors import InvalidInput
from jobs.serving.grammar_cost import check_cost

CLOSERS = ('"', "}", "]", ",", "a", "0", "1")  # tokens that bring JSON to its end, most direct first
STEPS = ("a", "0", *(chr(code) for code in range(33, 127)))  # tokens to try where these lead to no end
LETTER = "x"  # JSON has it in strings alone
MAX_END = 512  # tokens; texts that need more to end are not steered
MAX_TRIALS = 3_000  # tokens tried for one answer: each takes 0.05 ms of the engine with a vocabulary of 50,000
SLACK = 4  # tokens: one token may open two brackets
COSTLY = {
    "regex": ("{", "&", "~"),
    "lark": ("{", "&", "~"),
    "json_schema": ('"pattern', '"multipleOf"', '"allOf"', '"x-guidance"'),
    "json_object": (),
}
"""Parts of a constraint that may take minutes to compile: counted repetitions and intersections."""
REMEDY = "Use a smaller form, and look for a part that requires itself, such as a required property of its own object."
FREE_CPU_S, TOKEN_CPU_S = 3.0, 0.02
"""Time of the engine's thread that the constraint of one answer may take, in all and for each token."""
SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
Mask = npt.NDArray[np.bool_]
ChooseToken = Callable[[LLMatcher, Mask, set[bytes]], int | None]


class Grammars:
    """The constraints of one tokenizer. Tokens are read once, at the first use (a second for a large vocabulary)."""

    def __init__(self, tokenizer: Any, *, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._size = max(vocab_size, len(tokenizer))
        self._end_ids = [token for token in end_ids if token < self._size]
        # The library needs an end token: without one, the last special token or else the last token stands for it, and
        # never shows.
        special = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
        self._is_silent = not self._end_ids
        self._end_ids = self._end_ids or [max(special, default=len(tokenizer) - 1)]
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._tokens: LLTokenizer | None = None
        self._latest: tuple[Constraint, LLMatcher] | None = None

    def matcher(self, constraint: Constraint) -> GrammarMatcher:
        """Return the matcher of one answer. Raises InvalidInput for a constraint that can't be read."""
        tokens = self._read_tokens()
        with self._reading:  # one at a time: the others' processors are not used up
            if self._latest is None or self._latest[0] != constraint:
                self._latest = constraint, _compile(tokens, constraint)
            matcher = self._latest[1].deep_copy()
        return GrammarMatcher(
            matcher,
            self._end_ids,
            self._steps,
            size=tokens.vocab_size,
            vocab_size=self._vocab_size,
            shows_end=not self._is_silent,
        )

    def _read_tokens(self) -> LLTokenizer:
        with self._lock:
            if self._tokens is None:
                self._tokens = from_tokenizer(self._tokenizer, n_vocab=self._size, eos_token=self._end_ids)
                encoded = {text: self._tokens.tokenize_str(text) for text in STEPS}
                self._steps = {text: ids[0] for text, ids in encoded.items() if len(ids) == 1}
            return self._tokens


def _compile(tokens: LLTokenizer, constraint: Constraint) -> LLMatcher:
    grammar = _grammar(constraint)
    if any(costly in constraint.value for costly in COSTLY[constraint.kind]):
        try:
            check_cost(grammar)
        except subprocess.SubprocessError:
            raise InvalidInput(
                f"The {constraint.kind} can't be enforced: it takes too long to read.",
                remedy="Use smaller counts in repetitions, and fewer intersections or multiples.",
                field="response_format",
            ) from None
    matcher = LLMatcher(tokens, grammar, log_level=0)
    trial = matcher.deep_copy()
    _take_first_token(trial, size=tokens.vocab_size)
    if trial.is_error():
        remedy = "" if matcher.is_error() else REMEDY  # what can't be read at all names its fault itself
        raise InvalidInput(
            f"The {constraint.kind} can't be enforced: {_reason(trial)}.", remedy=remedy, field="response_format"
        )
    return matcher


def _take_first_token(matcher: LLMatcher, *, size: int) -> None:
    """Take the first token that may begin an answer: a form that requires itself without end fails there."""
    bits = np.zeros((size + 31) // 32, dtype=np.int32)
    matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
    if not matcher.is_error():
        matcher.consume_token(int(np.unpackbits(bits.view(np.uint8), bitorder="little").argmax()))


def _reason(matcher: LLMatcher) -> str:
    reason = on_one_line(str(matcher.get_error()))
    return "no text has this form" if reason == "NoExtensionBias" else reason


def _grammar(constraint: Constraint) -> str:
    try:
        if constraint.kind == "regex":
            return LLMatcher.grammar_from_regex(constraint.value)
        if constraint.kind == "lark":
            return LLMatcher.grammar_from_lark(constraint.value)
        schema = constraint.value if constraint.kind == "json_schema" else '{"type": "object"}'
        return LLMatcher.grammar_from_json_schema(schema, overrides=SEPARATORS)  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidInput(f"The {constraint.kind} can't be read: {error}", field="response_format") from error


class GrammarMatcher:
    """The constraint of one answer. `budget` is the most tokens that the answer may have; the engine sets it.
    `complete_at` is how many tokens the complete answer has, None before its end.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        end_ids: Sequence[int],
        steps: Mapping[str, int],
        *,
        size: int,
        vocab_size: int,
        shows_end: bool,
    ) -> None:
        self._matcher, self._end_ids, self._steps = matcher, frozenset(end_ids), steps
        self._closers = [steps[text] for text in CLOSERS if text in steps]
        self._vocab_size, self._shows_end = vocab_size, shows_end
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)
        self._taken = 0
        self._ending: list[int] | None = None  # the tokens to the end, once none are left for others
        self._spent_s = self._began_s = 0.0
        self._next_check = 0  # tokens taken
        self._ways: dict[int | None, list[int]] = {}  # to the end, by the token before them, as last found
        self._trials = 0
        self.budget: int | None = None
        self.complete_at: int | None = None

    def allowed(self) -> torch.Tensor:
        """Return which tokens may come next, bool [vocabulary of the network].

        Raises InvalidInput where the constraint becomes too costly for the others in the batch.
        """
        if self.complete_at is not None:
            return torch.ones(self._vocab_size, dtype=torch.bool)
        self._began_s = time.thread_time()
        mask = self._mask(self._matcher)
        if self._matcher.is_error():
            raise InvalidInput(
                f"The form of the answer can't be enforced further: {_reason(self._matcher)}.", remedy=REMEDY
            )
        self._ending = self._ending or self._plan_end(mask)
        if self._ending:
            mask = np.zeros_like(mask)
            mask[self._ending[0]] = True
        self._spent_s += time.thread_time() - self._began_s
        return torch.from_numpy(mask)

    def take(self, token: int) -> None:
        """Note the token that was chosen."""
        self._taken += 1
        self._ending = self._ending[1:] if self._ending else None
        if self.complete_at is not None:
            return
        if token not in self._end_ids:
            self._matcher.consume_token(token)
        if token in self._end_ids:
            self.complete_at = self._taken if self._shows_end else self._taken - 1
        elif self._matcher.is_stopped() and not self._matcher.is_error():
            self.complete_at = self._taken

    def _mask(self, matcher: LLMatcher) -> Mask:
        matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.size * self._bits.itemsize)
        spent_s = self._spent_s + time.thread_time() - self._began_s
        if spent_s > FREE_CPU_S + TOKEN_CPU_S * self._taken:
            raise InvalidInput(
                f"The form of the answer took {spent_s:.1f} s of the engine for {self._taken} tokens.",
                remedy="Use a simpler one.",
            )
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._vocab_size).view(np.bool_)

    def _plan_end(self, mask: Mask) -> list[int] | None:
        """Return the tokens to the end where a further free one could leave too few to complete the text."""
        left = MAX_END if self.budget is None else self.budget - self._taken
        if left >= MAX_END or self._taken < self._next_check:
            return None
        way = self._way_to_end(self._matcher, limit=left)
        if way is None:  # no known way fits: the answer is as free as its grammar
            self._next_check = self._taken + max(1, left // 2)  # a search costs as much as hundreds of tokens
            return None
        openers = [token for token in self._closers if mask[token]]
        ways = [self._way_to_end(self._matcher, limit=left - 1, first=token) for token in openers]
        worst = max([len(way), *(left + 1 if other is None else len(other) + 1 for other in ways)])
        reserve = left - worst - SLACK
        # Each token uses one, and makes the end longer by no more than the opening of a bracket does.
        self._next_check = self._taken + max(1, reserve // (1 + worst - len(way) + SLACK))
        return way if reserve <= 0 else None

    def _way_to_end(self, matcher: LLMatcher, *, limit: int, first: int | None = None) -> list[int] | None:
        """Return the tokens of the shortest known way to a complete text, after `first`; None if over the limit."""
        begun = matcher.deep_copy()
        if first is not None:
            begun.consume_token(first)
        if (way := self._walk_to_end(begun, self._ending_token, limit=limit)) is not None:
            return way
        known = self._ways.get(first)  # each token of it took dozens of trials
        if known and len(known) <= limit and self._is_complete_after(begun, known):
            return known
        if (way := self._walk_to_end(begun, self._new_token, limit=limit)) is not None:
            self._ways[first] = way
        return way

    def _walk_to_end(self, begun: LLMatcher, choose: ChooseToken, *, limit: int) -> list[int] | None:
        trial, way, masks = begun.deep_copy(), list[int](), set[bytes]()
        while not trial.is_stopped() and len(way) < limit:
            mask = self._mask(trial)
            masks.add(mask.tobytes())
            if (token := choose(trial, mask, masks)) is None:
                return None
            way.append(token)
            if token in self._end_ids:
                return way
            trial.consume_token(token)
        return way if trial.is_stopped() else None

    def _is_complete_after(self, matcher: LLMatcher, way: list[int]) -> bool:
        """Return whether a way that was found tokens ago still leads to a complete text."""
        if matcher.validate_tokens(way) < len(way):
            return False
        trial = matcher.deep_copy()
        trial.consume_tokens(way)
        return way[-1] in self._end_ids or bool(trial.is_stopped())

    def _new_token(self, matcher: LLMatcher, mask: Mask, masks: set[bytes]) -> int | None:
        """Return a token after which other tokens may come than before, such as the `@` of an address; None once the
        answer's trials are spent, which would hold up all others.
        """
        direct = self._ending_token(matcher, mask, masks)
        letter = self._steps.get(LETTER)
        is_in_string = letter is not None and mask[letter]
        ends = ('"',) if is_in_string else ('"', "}", "]")
        if direct in self._end_ids or direct in (self._steps.get(text) for text in ends):
            return direct
        for token in self._steps.values():
            if token < len(mask) and mask[token]:
                if self._trials == MAX_TRIALS:
                    return None
                self._trials += 1
                trial = matcher.deep_copy()
                trial.consume_token(token)
                if trial.is_stopped() or self._mask(trial).tobytes() not in masks:
                    return token
        return direct

    def _ending_token(self, matcher: LLMatcher, mask: Mask, masks: set[bytes]) -> int:
        end = next((token for token in self._end_ids if mask[token]), None)
        if end is not None:
            return end
        forced = matcher.compute_ff_tokens()
        if forced:
            return int(forced[0])
        closer = next((token for token in self._closers if token < len(mask) and mask[token]), None)
        return int(mask.argmax()) if closer is None else closer
