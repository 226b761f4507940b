"""Constrain answers to JSON, a schema, a regular expression or a grammar, by llguidance.

A matcher says before each step which tokens may come. As an answer nears its last allowed token, the matcher takes the
shortest known way to a complete text, so that JSON is not cut off in the middle.
"""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
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
SEARCH_CPU_S = 0.05
"""Time of the engine's thread that one search for the end of an answer may take."""
SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
Mask = npt.NDArray[np.bool_]


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
        self._matcher, self._end_ids = matcher, frozenset(end_ids)
        self._steps = {text: token for text, token in steps.items() if token < vocab_size}
        self._closers = [self._steps[text] for text in CLOSERS if text in self._steps]
        self._vocab_size, self._shows_end = vocab_size, shows_end
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)
        self._taken = 0
        self._ending: list[int] | None = None  # the tokens to the end, once none are left for others
        self._spent_s = self._began_s = self._search_until_s = 0.0
        self._next_check = 0  # tokens taken
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
        self._search_until_s = time.thread_time() + SEARCH_CPU_S
        way = self._way_to_end(limit=left)
        if way is None:  # the answer is as free as its grammar; what the network writes may bring a way into reach
            self._next_check = self._taken + max(1, left // 2)
            return None
        lengths = [len(way)]
        for opener in (token for token in self._closers if mask[token]):
            other = self._way_to_end(limit=left - 1, first=opener)
            if not self._may_search():
                break  # the others are tried again after a few tokens
            lengths.append(left + 1 if other is None else len(other) + 1)
        worst = max(lengths)
        reserve = left - worst - SLACK
        # Each token uses one, and makes the end longer by no more than the opening of a bracket does.
        self._next_check = self._taken + max(1, reserve // (1 + worst - len(way) + SLACK))
        return way if reserve <= 0 else None

    def _way_to_end(self, *, limit: int, first: int | None = None) -> list[int] | None:
        """Return the tokens of the shortest known way to a complete text, after `first`; None if over the limit."""
        for is_direct in (True, False):
            trial, way, before = self._matcher.deep_copy(), list[int](), set[bytes]()
            if first is not None:
                trial.consume_token(first)
            while not trial.is_stopped() and len(way) < limit and self._may_search():
                way.append(self._ending_token(trial) if is_direct else self._new_token(trial, before))
                if way[-1] in self._end_ids:
                    return way
                trial.consume_token(way[-1])
            if trial.is_stopped():
                return way
        return None

    def _may_search(self) -> bool:
        return time.thread_time() < self._search_until_s

    def _new_token(self, matcher: LLMatcher, before: set[bytes]) -> int:
        """Return a token after which others may come than `before` in this value, such as the `@` of an address."""
        direct, allowed = self._ending_token(matcher), self._allowed_steps(matcher)
        before.add(allowed)
        letter = self._steps.get(LETTER)
        is_in_string = letter is not None and matcher.validate_tokens([letter])
        closers = [self._steps.get(text) for text in ('"' if is_in_string else '"}]')]
        token = direct
        if direct not in self._end_ids and direct not in closers:
            steps = itertools.compress(self._steps.values(), allowed)
            token = next((step for step in steps if self._brings_new(matcher, step, before)), direct)
        if token in closers or (token == self._steps.get(",") and not is_in_string):
            before.clear()  # the next value has a way of its own
        return token

    def _brings_new(self, matcher: LLMatcher, token: int, before: set[bytes]) -> bool:
        if not self._may_search():
            return False
        trial = matcher.deep_copy()
        trial.consume_token(token)
        return trial.is_stopped() or self._allowed_steps(trial) not in before

    def _allowed_steps(self, matcher: LLMatcher) -> bytes:
        """Return which of the steps may come next, and whether the text may end: tens of times faster than a mask of a
        large vocabulary.
        """
        return bytes([*(matcher.validate_tokens([step]) for step in self._steps.values()), matcher.is_accepting()])

    def _ending_token(self, matcher: LLMatcher) -> int:
        forced = [] if matcher.is_accepting() else matcher.compute_ff_tokens()
        tokens = forced[:1] or (*self._end_ids, *self._closers, *self._steps.values())
        token = next((token for token in tokens if matcher.validate_tokens([token])), None)
        return int(self._mask(matcher).argmax()) if token is None else token
