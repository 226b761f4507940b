"""In which language rows are written, guessed by py3langid (97 languages, its model comes with it) on rows spread over the dataset."""

from __future__ import annotations

from collections import Counter

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from backend.domain.data_report import Language

LOOKED_AT = 20_000
CHARACTERS = 600
FEW_LETTERS = 20
SURE = 0.7
SHORT, UNSURE = "short", "unsure"
NAMES = {
    SHORT: "Too short to tell", UNSURE: "Uncertain", "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian",
    "bg": "Bulgarian", "bn": "Bengali", "br": "Breton", "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "ga": "Irish", "gl": "Galician", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian", "kk": "Kazakh", "km": "Khmer",
    "kn": "Kannada", "ko": "Korean", "la": "Latin", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ml": "Malayalam",
    "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "nb": "Norwegian", "nn": "Norwegian (Nynorsk)",
    "pa": "Punjabi", "pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "si": "Sinhala", "sk": "Slovak",
    "sl": "Slovene", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tl": "Tagalog",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


class LanguageCounter:
    """Guesses the language of at most 20,000 rows, every so many one."""

    def __init__(self, num_rows: int) -> None:
        self._every = max(1, -(-num_rows // LOOKED_AT))
        self._found: Counter[str] = Counter()
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def add(self, number: int, text: str) -> None:
        """Consider a row."""
        if number % self._every == 0:
            self._found[self._guess(text[:CHARACTERS])] += 1

    def _guess(self, text: str) -> str:
        letters = sum(letter.isalpha() for letter in text)
        wide = sum(letter > "\u2e80" for letter in text)  # a character of Chinese, Japanese or Korean says more than a letter
        if letters + 3 * wide < FEW_LETTERS:
            return SHORT
        code, probability = self._identifier.classify(text)
        return str(code) if probability >= SURE else UNSURE

    def languages(self) -> tuple[list[Language], int]:
        """Return what was found, the most frequent first, and how many rows were looked at."""
        total = sum(self._found.values())
        return [
            Language(code=code, name=NAMES.get(code, code), rows=count, share=count / total) for code, count in self._found.most_common()
        ], total
