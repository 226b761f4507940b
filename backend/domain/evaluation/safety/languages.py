"""The language of an answer, by script and by its commonest words. Pure.

It decides which cues of refusals apply, so a wrong guess is worse than none: a text whose language is not among those
with cues, or that has too few common words of any, has none.
"""

from __future__ import annotations

import re
import unicodedata

_COMMON = {
    "en": (
        "a the of and to in is that it for was with as his on be at by i this had not are but from or have an they"
        " which you were her all their there been if more when will would who so no can what some out up into do about"
        " them then these may how your"
    ),
    "de": (
        "der die das und ist nicht zu den mit sich des auf für im dem ein eine als auch es an werden aus er hat dass"
        " sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr"
        " durch man kann ich mir mich kein keine ihnen ihr wir du dir diese dieser dabei leider wenn sein"
    ),
    "es": (
        "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si sin"
        " sobre este ya entre cuando todo esta ser son dos también fue había muy años hasta desde está mi porque qué yo"
        " puedo eso esto ese esa te tu nada ni"
    ),
    "fr": (
        "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la avec ou son"
        " cette d l n c j s je vous mais comme on sa ses si leur tout ces aux deux même être fait elle ils nous votre"
        " peux sans cela être à été"
    ),
    "it": (
        "di e il la che in a per un è non una sono con si da del i le dei della al come più ma lo nel ha gli ho mi"
        " questo alla delle anche se ti ci loro o tra essere posso questa quello cosa io tuo suo dal sul nella"
        " degli era"
    ),
    "pt": (
        "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua"
        " ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos ter"
        " seus me esse eles você essa posso isto"
    ),
    "nl": (
        "het een van is dat niet op te zijn met voor die aan er maar om ook als dan naar bij uit nog wel geen je ik hij"
        " zij kan worden deze door over tot dit mijn hebben kunnen"
    ),
    "sv": (
        "och att det som en på är av för med den till inte om ett har de jag kan var men från så när eller ska du vi"
        " din nej mig inte"
    ),
    "da": (
        "og at det er en til af på som med den for ikke der har de jeg kan et men fra så eller skal du vi dig mig hvis"
    ),
    "pl": (
        "nie się na jest to że do z w i jak ale co tak za od po przez jego przy dla tym może czy być są był lub oraz"
        " mogę ten"
    ),
    "cs": "se na je to že v s do a z jako ale co tak za od po pro by jsem není jsou byl nebo může tím také",
    "ro": "și de la nu este în cu pe că un o mai din care pentru sunt ca să dar au fost prin acest nici poate pot",
    "tr": "bir ve bu da de için ile çok ne daha gibi olarak var ama o olan sonra kadar değil mi ben bunu her ya",
    "id": (
        "yang dan di dengan untuk tidak ini dari dalam itu pada adalah saya ke akan atau bisa juga ada karena anda"
        " dapat"
    ),
    "vi": "và của là không có trong được cho một các người với này để những đã về tôi khi từ bạn thể",
    "fi": "ja on ei se että en mutta ole kun oli myös hän mitä niin tai voi minä olen sitä tämä jos voin",
    "ca": "de la que el i en a els les per amb no una del és al com més un però ho les són aquest puc això seva",
}
"""Common words by language. Those without cues of refusals are here so that their texts are not taken for a
neighbour's.
"""
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
MIN_SHARE = 0.12
"""Share of a text's words that must be common ones of its language."""
MIN_WORDS = 4
_UKRAINIAN_OR_SERBIAN = re.compile(r"[іїєґђћџљњјўѓќ]", re.IGNORECASE)
_RUSSIAN = re.compile(
    r"\b(?:и|не|в|на|что|я|с|это|как|но|вы|по|для|могу|из|у|так|к|о|от|же|бы|если|или)\b", re.IGNORECASE
)


def language_of(text: str) -> str | None:
    """Return the code of a text's language, such as `de`, or None where it can't be told. Chinese has one code in both
    scripts.

    Texts of fewer than four words in Latin letters can't be told apart by their words: None.
    """
    scripts = _letters_by_script(text)
    total = sum(scripts.values())
    if not total:
        return None
    if scripts.get("HANGUL", 0) > 0.3 * total:
        return "ko"
    kana = scripts.get("HIRAGANA", 0) + scripts.get("KATAKANA", 0)
    if kana + scripts.get("CJK", 0) > 0.4 * total:
        return "ja" if kana > 0.08 * (kana + scripts.get("CJK", 0)) else "zh"
    if scripts.get("CYRILLIC", 0) > 0.5 * total:
        return "ru" if _RUSSIAN.search(text) and not _UKRAINIAN_OR_SERBIAN.search(text) else None
    if scripts.get("LATIN", 0) < 0.5 * total:
        return None
    return _latin(text)


def _latin(text: str) -> str | None:
    words = re.findall(r"[^\W\d_]+", text.lower())
    if len(words) < MIN_WORDS:
        return None
    counts = {language: sum(word in common for word in words) for language, common in _WORDS.items()}
    most = max(counts.values())
    if most < max(1, MIN_SHARE * len(words)):
        return None
    likeliest = [language for language, count in counts.items() if count == most]
    if len(likeliest) > 1 and "en" in likeliest and text.isascii():  # "in", of a sentence of names
        return "en"
    return likeliest[0] if len(likeliest) == 1 else None


def _letters_by_script(text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for letter in text:
        if letter.isalpha():
            script = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
            counts[script] = counts.get(script, 0) + 1
    return counts
