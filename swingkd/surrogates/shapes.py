"""Made-up values that look like the real ones: each character by its kind, and checksums that are right.

What is kept of a value is told by its copies together: which of its letters are vowels tells a word among thousands,
and whether it begins with 0 tells a number in ten.  So a letter becomes any letter, a number begins with anything but
0, and what reads as a word of a host or of a mailbox has any length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from random import Random

from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.us import ssn

from swingkd.tagging.rule import digits_of, valid
from swingkd.tagging.rules_contacts import is_public_ending

_NATIONAL = (cpf, ric, idnr, cpr, dni, nie, hetu, nir, nhs, aadhaar, pan, codicefiscale, bsn, pesel, personnummer, ssn)
# Fewer letters and digits hold no checksum.
_CHECKED, _MOST_DRAWS = 9, 3000
_SHORTEST_CARD = 14
_LETTERS, _HEX = "abcdefghijklmnopqrstuvwxyz", "0123456789abcdef"
_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"
_MADE_WORD = range(4, 10)
_WORD = re.compile(r"[^\W\d_]+")
_HEX_RUN = re.compile(r"(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}|(?=[0-9A-F]*\d)(?=\d*[A-F])[0-9A-F]{8,}")
_NUMBER = re.compile(r"\d+")
_SCHEMES = (
    "https?|ftps?|sftp|ssh|wss?|file|git|ldaps?|smb|s3|gs|jdbc|mongodb(?:[+]srv)?|postgres(?:ql)?|mysql|rediss?|amqps?"
)
_HOST = re.compile(rf"((?:(?:{_SCHEMES})://)?(?:[^\s/@]*@)?(?:www\.)?)([^\s/:?#]+)(.*)", re.IGNORECASE | re.DOTALL)
#: Where everybody may have an address: it tells nothing of a person.
PUBLIC_HOSTS = frozenset(
    "gmail.com googlemail.com yahoo.com hotmail.com outlook.com live.com icloud.com aol.com msn.com gmx.de gmx.net "
    "web.de mail.ru yandex.ru proton.me protonmail.com qq.com 163.com 126.com orange.fr free.fr libero.it example.com "
    "example.org example.net".split()
)


def by_shape(value: str, rng: Random) -> str:
    """Return text of the same shape: digits for digits, letters for letters of their alphabet and case.

    Args:
        value: any text; what is neither letter nor digit stays.
        rng: where the draws come from.
    """
    kinds = [_alphabet(c) for c in value]
    for run in _NUMBER.finditer(value):
        # A number is as long as it looks.
        kinds[run.start()] = kinds[run.start()][1:]
    for run in _HEX_RUN.finditer(value):
        kinds[run.start() : run.end()] = [_HEX.upper() if run[0].isupper() else _HEX] * len(run[0])
    # Quicker than `rng.choice`, and as even: the lists are much shorter than 2 ** 53.
    draw = rng.random
    return "".join([kind[int(draw() * len(kind))] if kind else c for c, kind in zip(value, kinds, strict=True)])


@lru_cache(maxsize=4096)
def _alphabet(character: str) -> str:
    """Return what may stand for a character; empty for one that is neither letter nor digit."""
    if character.isdecimal():
        zero = ord(character) - unicodedata.digit(character)
        return "".join(chr(zero + i) for i in range(10))
    if not character.isalpha() and not unicodedata.category(character).startswith("M"):
        return ""
    if character.isascii():
        return _LETTERS if character.islower() else _LETTERS.upper()
    # The letters around it in Unicode, of the same case: its alphabet, or part of a large one.
    start, kind = ord(character) & ~0x7F, unicodedata.category(character)
    script = unicodedata.name(character, "").split(" ")[0]
    near = [chr(c) for c in range(start, start + 0x80)]
    return "".join(c for c in near if unicodedata.category(c) == kind and unicodedata.name(c, "").startswith(script))


def made_words(value: str, rng: Random) -> str:
    """Return text whose words are others, of any length, and whose digits are others.

    Args:
        value: such as a mailbox, or the part of a host; its words and numbers stay in their order.
        rng: where the draws come from.
    """
    made, place = [], 0
    for run in _WORD.finditer(value):
        made += [by_shape(value[place : run.start()], rng), _made_word(run[0], rng)]
        place = run.end()
    return "".join(made) + by_shape(value[place:], rng)


def _made_word(word: str, rng: Random) -> str:
    if not word.isascii():
        return by_shape(word, rng)
    made = "".join(rng.choice((_CONSONANTS, _VOWELS)[i % 2]) for i in range(rng.choice(_MADE_WORD)))
    return made.upper() if word.isupper() and len(word) > 1 else made.title() if word.istitle() else made


def number(value: str, label: str, rng: Random) -> str:
    """Return a value of the same shape for which every checksum holds that holds for the value.

    Args:
        value: a number of a card, an account, a person or a thing.
        label: what it is.
        rng: where the draws come from.
    """
    checks = _checks(value, label)
    if not checks:
        return by_shape(value, rng)
    compact = [i for i, c in enumerate(value) if c.isalnum()]
    # The issuer of a card and the country of an account are part of the format; what is right by chance has neither.
    card = checks[0] is _luhn and len(compact) >= _SHORTEST_CARD
    kept = compact[:2] if card or checks[0] is iban.is_valid else []
    for _ in range(_MOST_DRAWS):
        drawn = list(by_shape(value, rng))
        for i in kept:
            drawn[i] = value[i]
        if checks[0] is iban.is_valid:
            digits = iban.calc_check_digits("".join(drawn[i] for i in compact))
            drawn[compact[2]], drawn[compact[3]] = digits[0], digits[1]
        made = "".join(drawn)
        if all(valid(check, made) for check in checks):
            return made
    return by_shape(value, rng)


def _luhn(value: str) -> bool:
    return luhn.is_valid(digits_of(value))


def _checks(value: str, label: str) -> list[Callable[[str], bool]]:
    """Return the checks of formats that a value passes: of several, the one that its label names or its length."""
    digits = sum(c.isdigit() for c in value)
    if digits < 6 or sum(c.isalnum() for c in value) < _CHECKED:
        return []
    if "SSN" in label.upper() and valid(ssn.is_valid, value):
        return [ssn.is_valid]
    if valid(iban.is_valid, value):
        return [iban.is_valid]
    if _SHORTEST_CARD <= digits <= 19 and valid(_luhn, value):
        return [_luhn]
    national = [check.is_valid for check in _NATIONAL if valid(check.is_valid, value)]
    return national[:2] or ([_luhn] if valid(_luhn, value) else [])


def host(value: str, rng: Random, known: dict[str, str]) -> str:
    """Return a web address or a host of other words; what everybody shares stays: the scheme and the last part.

    Args:
        value: with or without a scheme and a path.
        rng: where the draws come from.
        known: what stands for the parts of hosts in this record, in small letters; new ones are added.
    """
    found = _HOST.fullmatch(value)
    if found is None:
        return by_shape(value, rng)
    start, name, rest = found.groups()
    if name.lower() not in PUBLIC_HOSTS:
        front, dot, last = name.rpartition(".")
        shared = bool(dot) and is_public_ending(last)
        name = _of_host(front, rng, known) + dot + last if shared else made_words(name, rng)
    scheme, at, _ = start.rpartition("@")
    start = by_shape(scheme, rng) + at + start[len(scheme) + len(at) :] if at and "://" not in scheme else start
    if at and "://" in scheme:
        kept, slashes, account = scheme.partition("://")
        start = kept + slashes + by_shape(account, rng) + at
    # Of what follows, its first words are the site's: "/user/ann" tells who by its end.
    return start + name + by_shape(rest, rng)


def _of_host(front: str, rng: Random, known: dict[str, str]) -> str:
    """Return the parts of a host, those that are known as they are known."""
    parts = []
    for part in front.split("."):
        if part.lower() not in known:
            known[part.lower()] = made_words(part, rng).lower()
        made = known[part.lower()]
        parts.append(made.upper() if part.isupper() else made)
    return ".".join(parts)


def network_address(value: str, rng: Random, known: dict[str, str]) -> str:
    """Return an address of a machine: numbers up to 255 of the same length, or letters and digits up to f.

    Args:
        value: of one.
        rng: where the draws come from.
        known: as for `host`, where it is the name of one.
    """
    if re.fullmatch(r"[0-9A-Fa-f:.-]*[:a-fA-F-][0-9A-Fa-f:.-]*(?:%\w+|/\d+)?", value):
        digits = _HEX.upper() if value.isupper() else _HEX
        return "".join(rng.choice(digits) if c.isalnum() else c for c in value)
    if not re.fullmatch(r"[\d.:/ ]+", value):
        return host(value, rng, known)
    lowest = {1: 1, 2: 10, 3: 100}
    highest = {1: 9, 2: 99, 3: 254}

    def octet(match: re.Match[str]) -> str:
        size = min(len(match[0]), 3)
        return str(rng.randint(lowest[size], highest[size]))

    return _NUMBER.sub(octet, value)
