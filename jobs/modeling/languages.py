"""In which language a text is written, guessed by py3langid, whose model comes with it (docs/decisions/0014)."""

from __future__ import annotations

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from backend.domain.data.languages import NAMES, SHORT, UNSURE

CHARACTERS = 600
FEW_LETTERS = 20
SURE = 0.7


class LanguageGuesser:
    """Loads the model once (0.7 s), then guesses about 10,000 texts a second."""

    def __init__(self) -> None:
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        # dialects that differ from their neighbours in a few words would win in short texts
        self._identifier.set_languages(sorted(NAMES.keys() & set(self._identifier.labels)))

    def guess(self, text: str) -> str:
        """Return an ISO 639-1 code from the text's first 600 characters; "short" or "unsure" where that would be a guess in the dark."""
        head = text[:CHARACTERS]
        letters = sum(letter.isalpha() for letter in head)
        wide = sum(letter > "\u2e80" for letter in head)  # a character of Chinese, Japanese or Korean says more than a letter
        if letters + 3 * wide < FEW_LETTERS:
            return SHORT
        code, probability = self._identifier.classify(head)
        return str(code) if probability >= SURE else UNSURE
