"""Compare an answer with its references as text: exact match, token F1, containment.

`exact_match` and `f1` normalise as the evaluation script of SQuAD does (Rajpurkar et al. 2016, 2018): lower case,
without ASCII punctuation, articles and repeated spaces, so that `U.S.` equals `US`. In scripts that put no space
between words, and in Korean, whose particles cling to them, each character is a token, as in the scripts of MLQA (Lewis
et al. 2020) for Chinese and KorQuAD 1.0 for Korean. The best of several references counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import regex

from backend.domain.evaluation.metrics.numbers import read_number

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_UNSPACED = regex.compile(rf"[{_SCRIPTS}ー][\p{{M}}]*")
_EASTERN_MARKS = regex.compile(
    r"[\p{P}&&[\u0E00-\u0FFF\u1000-\u109F\u1780-\u17FF\u3000-\u303F\u30FB\uFF00-\uFF65]]", regex.V1
)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NO_DIGITS = str.maketrans("", "", string.digits)


def normalise_answer(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, articles and repeated spaces, in SQuAD's order of steps.

    Characters of a script without spaces stand apart, and its own punctuation (`。`) is left out.

    Example:
        >>> normalise_answer("The answer: 北京市。")
        'answer 北 京 市'
    """
    plain = text.lower().translate(_NO_PUNCTUATION)
    if not plain.isascii():
        plain = _UNSPACED.sub(r" \g<0> ", _EASTERN_MARKS.sub("", plain))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction equals a reference after SQuAD's normalisation, else 0.

    No reference, or an empty one, means that the question has no answer (SQuAD 2.0): then an empty prediction is right.
    Stricter than SQuAD's script in two cases that would give credit to any answer: a reference without a letter or
    digit (`] )`) is compared verbatim, and two numbers that differ in sign or decimal point alone (`3.5`, `35`) are not
    equal.
    """
    return float(any(_equal(prediction, reference) for reference in _answers(references)))


def _answers(references: Sequence[str]) -> Sequence[str]:
    return [reference for reference in references if reference.strip()] or [""]


def _equal(prediction: str, reference: str) -> bool:
    if reference.strip() and not any(mark.isalnum() for mark in reference):
        return prediction.strip() == reference.strip()
    if normalise_answer(prediction) != normalise_answer(reference):
        return False
    first, second = read_number(prediction), read_number(reference)
    return first is None or second is None or first == second


def f1(prediction: str, references: Sequence[str]) -> float:
    """Return the best F1 of the bags of normalised tokens over the references, between 0 and 1.

    If a side has no token, F1 is 1 where neither has one and 0 otherwise (SQuAD 2.0).
    """
    return max(
        _token_f1(normalise_answer(prediction).split(), normalise_answer(reference).split())
        for reference in _answers(references)
    )


def _token_f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * common / (len(prediction) + len(reference))


def contains(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction contains a reference as complete words after normalisation, else 0.

    In scripts without spaces any run of characters counts, since no mark tells where a word ends.
    """
    padded = f" {normalise_answer(prediction)} "
    return float(
        any(
            f" {normalise_answer(r)} " in padded if normalise_answer(r) else bool(r.strip()) and r.strip() in prediction
            for r in references
        )
    )


def verbatim_match(
    prediction: str,
    references: Sequence[str],
    *,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
    regexes_to_ignore: Sequence[str] = (),
) -> float:
    """Return 1 if the prediction equals a reference to the character, after what is to be ignored is removed from both.

    The options are those of lm-evaluation-harness' `exact_match`, applied in its order.
    """

    def reduced(text: str) -> str:
        for pattern in regexes_to_ignore:
            text = re.sub(pattern, "", text)
        text = text.lower() if ignore_case else text
        text = text.translate(_NO_PUNCTUATION) if ignore_punctuation else text
        return text.translate(_NO_DIGITS) if ignore_numbers else text

    return float(reduced(prediction) in {reduced(reference) for reference in references})


def label_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the references, outer spaces aside. Averaged, this is accuracy."""
    return float(prediction.strip() in {reference.strip() for reference in references})
