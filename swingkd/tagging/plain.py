"""Text as rules read it: every character stands for one, so what is found in it stands at the same place in the text.

People paste from PDFs, phones and word processors: a number's blanks may be no-break or thin ones, its dashes long
ones, its digits full-width or Arabic.

    >>> plain("+49\\u00a030\\u202f1234\\u20115678")
    '+49 30 1234-5678'
"""

from __future__ import annotations

import sys
import unicodedata
from functools import lru_cache

# Blanks of no width, which some programs put into long numbers.
_INVISIBLE = "\u200b\u2060\ufeff\u00ad"


def plain(text: str) -> str:
    """Return the text with each blank, dash, digit and full-width sign as ASCII has it; as long as the text."""
    return text if text.isascii() else text.translate(_table())


@lru_cache(maxsize=1)
def _table() -> dict[int, str]:
    table = dict.fromkeys(map(ord, _INVISIBLE), " ")
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind == "Zs":
            table[code] = " "
        elif kind in ("Zl", "Zp"):
            table[code] = "\n"
        elif kind == "Pd" or code == 0x2212:
            table[code] = "-"
        elif kind == "Nd":
            table[code] = str(unicodedata.digit(character))
        elif 0xFF01 <= code <= 0xFF5E:
            table[code] = chr(code - 0xFEE0)
    return table
