"""What spellings of a value share: its letters; and what is left when the value is gone: its template.

>>> template_of("Ann O'Neil, 1987"), template_of("Йозеф 5")
("Aaa A'Aaaa, 0000", 'Ааааа 0')
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# For each script one letter, in capitals where it has them.
_LETTERS = {
    "LATIN": "aA",
    "CYRILLIC": "аА",  # noqa: RUF001
    "GREEK": "αΑ",  # noqa: RUF001
    "ARMENIAN": "աԱ",
    "GEORGIAN": "აა",
    "HEBREW": "אא",
    "ARABIC": "اا",  # noqa: RUF001
    "DEVANAGARI": "कक",
    "BENGALI": "কক",
    "TAMIL": "கக",
    "THAI": "กก",
    "HANGUL": "가가",
    "HIRAGANA": "ああ",
    "KATAKANA": "アア",
    "CJK": "一一",
}

_GAPS = re.compile(r"[\W_]+")


def letters(value: str) -> str:
    """Return a value's letters and digits in small letters: what its spellings share."""
    return _GAPS.sub("", value.casefold())


def template_of(value: str) -> str:
    """Return a value's template: 0 for each digit, one letter for all of a script and case, other signs as they are.

    Args:
        value: any text; the marks on its letters go.
    """
    return "".join(map(_sign, unicodedata.normalize("NFC", value)))


@lru_cache(maxsize=65536)
def _sign(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Nd", "No", "Nl"):
        return "0"
    if category.startswith("M"):
        return ""
    if not category.startswith("L"):
        return character
    script = unicodedata.name(character, "LATIN").split(" ")[0].split("-")[0]
    return _LETTERS.get(script, _LETTERS["LATIN"])[category in ("Lu", "Lt")]
