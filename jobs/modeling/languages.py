"""Language identification by py3langid, whose model comes with the package (docs/decisions/0014)."""

from __future__ import annotations

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from backend.domain.data.languages import NAMES, SHORT, UNSURE

CHARACTERS = 600
FEW_LETTERS = 20
SURE = 0.7


class LanguageGuesser:
    """Load the model once (0.7 s), then classify about 10,000 texts per second."""

    def __init__(self) -> None:
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        # dialects close to a larger language would win on short texts
        self._identifier.set_languages(sorted(NAMES.keys() & set(self._identifier.labels)))

    def guess(self, text: str) -> str:
        """Return an ISO 639-1 code from the text's first 600 characters; "short" or "unsure" if they do not suffice."""
        head = text[:CHARACTERS]
        letters = sum(letter.isalpha() for letter in head)
        # a Chinese, Japanese or Korean character carries more information than a letter
        wide = sum(letter > "\u2e80" for letter in head)
        if letters + 3 * wide < FEW_LETTERS:
            return SHORT
        code, probability = self._identifier.classify(head)
        return str(code) if probability >= SURE else UNSURE
