"""Made-up people, places and companies, from the lists of Faker."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

from faker import Faker

from swingkd.surrogates.kinds import kind_of
from swingkd.surrogates.shapes import by_shape
from swingkd.surrogates.template import letters

# Whose lists fit names in another writing.
_SCRIPTS = {
    "CYRILLIC": "ru_RU",
    "GREEK": "el_GR",
    "HEBREW": "he_IL",
    "ARABIC": "ar_AA",
    "CJK": "zh_CN",
    "HIRAGANA": "ja_JP",
    "KATAKANA": "ja_JP",
    "HANGUL": "ko_KR",
    "DEVANAGARI": "hi_IN",
    "BENGALI": "bn_BD",
    "TAMIL": "ta_IN",
    "THAI": "th_TH",
    "GEORGIAN": "ka_GE",
    "ARMENIAN": "hy_AM",
}
# Fewer examples of a kind are no list: each would come up again and again.
_DRAWN, _ENOUGH, _FEW = 3000, 50, 10
#: So often another one is drawn, where one must not be made up.
DRAWS = 50
# How often a name is one that Faker does not have: of the people of the US (Census of 1990), half have such a last
# name, and nearly a third such a first name.
_NEW_LAST, _NEW_FIRST, _LONGEST_NAME = 0.5, 0.25, 15
# A word in so many streets or cities is part of none of them.
_SHARED = 8
_OF_PLACE = frozenset(
    "st str street ave avenue road rd lane ln drive dr blvd boulevard way place pl court ct square sq suite ste "
    "apt apartment unit floor fl box po apo fpo dpo psc cmr uss usns usnv uscgc room building bldg north south "
    "east west n s e w ne nw se sw new lake port mount saint straße strasse gasse weg platz allee rue chemin "
    "calle avenida plaza via piazza rua".split()
)
_PREFIXES = ("street_prefixes", "city_prefixes")
# What stands before a name, behind one, and in small letters within one, and is none.
_BEFORE = frozenset(
    "mr mrs ms miss mx dr doctor prof professor sir madam dame lord lady rev herr frau mme mlle".split()
)
_BEHIND = frozenset("jr sr ii iii iv md phd".split())
_WITHIN = frozenset("van von der den de del della di da dos du la le el al bin ibn of and y e".split())

#: Words beside a name that are none.
TITLE_WORDS = _BEFORE | _BEHIND | _WITHIN


def _marks() -> str:
    """Return the marks that stand on letters, and the vowels of some scripts, as the inside of a class."""
    known = [c for c in range(0x300, 0x1B00) if unicodedata.category(chr(c)).startswith("M")]
    starts = [c for c in known if c - 1 not in set(known)]
    ends = [c for c in known if c + 1 not in set(known)]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


_LETTER = rf"[^\W\d_][{_marks()}]*"
# "O'Neil", and of "Neil's" the name alone.
_OF = r"(?<=['\u2019])s\b"
WORD = re.compile(rf"(?!{_OF})(?:{_LETTER})+(?:['\u2019](?!{_OF})(?:{_LETTER})+)?", re.IGNORECASE)


def name_words(value: str) -> list[re.Match[str]]:
    """Return the words of a name that are names: no title before or behind it, no particle within."""
    words = list(WORD.finditer(value))
    kept: set[int] = set()
    for number, word in enumerate(words):
        own, last = word[0].casefold(), number == len(words) - 1
        before = own in _BEFORE and not last and kept == set(range(number))
        within = own in _WITHIN and word[0].islower() and 0 < number < len(words) - 1
        if before or within or (own in _BEHIND and number and number - 1 not in kept):
            kept.add(number)
    return [word for number, word in enumerate(words) if number not in kept]


class Pools(NamedTuple):
    """What names are drawn from, the frequent ones more often: `first` and `last` names, each `city`, those of one
    word (`town`), names of a `street`, each `company`; `of_place`: words that many addresses share ("Street"), which
    tell nothing; `behind`: those that do behind a name ("Khan Mews"), and are one elsewhere ("Forest Road")."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    city: tuple[str, ...]
    town: tuple[str, ...]
    street: tuple[str, ...]
    company: tuple[str, ...]
    of_place: frozenset[str]
    behind: frozenset[str]

    def names_place(self, word: str) -> bool:
        """Tell whether a word says that the one before it is a street's name, or the like."""
        return word.casefold() in self.of_place or word.casefold() in self.behind


@lru_cache(maxsize=16)
def pools(locale: str) -> Pools:
    """Return the lists of a locale, such as "en_US".

    Args:
        locale: as Faker has it.

    Raises:
        ValueError: Faker does not know it.
    """
    try:
        fake = Faker(locale)
    except AttributeError:
        raise ValueError(
            f"locale={locale!r} is not one of Faker's. Use one such as 'en_US', 'de_DE' or 'zh_CN'."
        ) from None
    # The lists are public; which of them a record gets is not drawn here.
    fake.seed_instance(0)
    for provider in fake.get_providers():
        # Italy's come from a set: in another order in each process.
        if isinstance(cities := getattr(provider, "cities", None), list):
            provider.cities = sorted(cities)
    kinds = (fake.first_name, fake.last_name, fake.city, fake.street_name, fake.company)
    first, last, city, street, company = (tuple(kind() for _ in range(_DRAWN)) for kind in kinds)
    if len(set(first)) < _FEW:
        # Some locales have names of women and of men, and two placeholders for both.
        first = tuple(kind() for _ in range(_DRAWN // 2) for kind in (fake.first_name_female, fake.first_name_male))
    # One word stands for one word: names of two would not.
    first, last, town = (tuple(filter(WORD.fullmatch, names)) or names for names in (first, last, city))
    words = Counter(word.casefold() for name in {*city, *street} for word in WORD.findall(name))
    own = {name.casefold() for name in (*first, *last)}
    shared = {word for word, count in words.items() if count >= _SHARED and word not in own}
    before, behind = (_words_of(fake, kinds) for kinds in (_PREFIXES, ("street_suffixes",)))
    of_place = frozenset((shared - behind) | before | _OF_PLACE)
    return Pools(first, last, city, town, last, company, of_place, frozenset(behind - of_place))


def _words_of(fake: Faker, kinds: tuple[str, ...]) -> set[str]:
    """Return the words of a locale's lists, in small letters."""
    lists = [getattr(provider, kind, ()) for provider in fake.get_providers() for kind in kinds]
    return {word.casefold() for listed in lists for entry in listed for word in WORD.findall(entry)}


def pools_like(values: Mapping[str, Iterable[str]], locale: str) -> Pools:
    """Return lists of the names in values, the frequent ones more often; where they are too few, those of the locale.

    Args:
        values: by label.
        locale: as for `pools`.
    """
    public = pools(locale)
    found: dict[str, list[str]] = {name: [] for name in Pools._fields}
    for label, every in values.items():
        kind = kind_of(label)
        for value in every:
            if kind == "person" and (words := [word[0] for word in name_words(value) if len(word[0]) > 1]):
                found["first"].append(words[0].capitalize())
                found["last"] += [word.capitalize() for word in words[-1:] if len(words) > 1]
            elif kind == "street":
                words = WORD.findall(value)
                for word, following in zip(words, [*words[1:], ""], strict=True):
                    if word.casefold() not in public.of_place and len(word) > 2:
                        named = public.names_place(following)
                        found["street" if named else "town"].append(word.capitalize())
            elif kind in ("city", "company"):
                found[kind].append(value)
    made: dict[str, Any] = {name: tuple(found[name]) for name in Pools._fields if len(found[name]) >= _ENOUGH}
    return public._replace(**made)


@lru_cache(maxsize=32)
def _spellings(names: tuple[str, ...]) -> dict[str, str]:
    """Return which letters follow three others in names, as often as they do; "^" stands before, "$" behind."""
    following: dict[str, list[str]] = {}
    for name in sorted({f"^^^{name.lower()}$" for name in names}):
        for place in range(3, len(name)):
            following.setdefault(name[place - 3 : place], []).append(name[place])
    return {context: "".join(letters) for context, letters in following.items()}


def spelled(names: tuple[str, ...], rng: Random) -> str:
    """Return a new name that is spelled like those of a list: most people have a name that is in no list.

    Args:
        names: of one word each.
        rng: where the draws come from.
    """
    following, made = _spellings(names), "^^^"
    while not made.endswith("$") and len(made) < _LONGEST_NAME:
        made += rng.choice(following[made[-3:]])
    return made.strip("^$").capitalize()


def untaken(draw: Callable[[], str], taken: Callable[[str], bool]) -> str:
    """Return what is drawn, again where it must not be made up; after so many draws whatever comes.

    Args:
        draw: returns another one each time.
        taken: tells of one in small letters.
    """
    for _ in range(DRAWS):
        drawn = draw()
        if not taken(drawn.casefold()):
            break
    return drawn


def locale_of(value: str, locale: str) -> str:
    """Return the locale whose lists fit the writing of a value: the one that was asked for, where it is Latin."""
    letter = next((c for c in value if c.isalpha()), "a")
    script = re.split("[ -]", unicodedata.name(letter, ""), maxsplit=1)[0]
    return _SCRIPTS.get(script, locale)


class People:
    """The made-up people of one record: every part of a name has one surrogate.

    Args:
        locale: of the lists.
        rng: where the draws come from.
        taken: tells whether a name, in small letters, is one that must not be made up.
        home: lists in the place of the locale's.
    """

    def __init__(self, locale: str, rng: Random, taken: Callable[[str], bool], home: Pools | None = None):
        self.locale, self.rng, self.taken, self.home = locale, rng, taken, home
        self._parts: dict[str, str] = {}

    def name(self, value: str) -> str:
        """Return a made-up name written like the value; titles and particles stay what they are."""
        lists, words = self.lists(value), name_words(value)
        if not value.isascii() and len(words) == 1 and " " not in value and not value[:1].isupper():
            # Without blanks between its parts: the family's name first.
            key = value.casefold()
            if key not in self._parts:
                self._parts[key] = self._in_one_piece(lists)
            return self._parts[key]
        known = self._parts
        for _ in range(DRAWS):
            self._parts = dict(known)
            made = self._written(value, words, lists)
            if len(self._parts) == len(known) or not self.taken(letters(made)):
                break
        return made

    def _written(self, value: str, words: list[re.Match[str]], lists: Pools) -> str:
        made, place = [], 0
        for number, word in enumerate(words):
            is_last = number == len(words) - 1 and len(words) > 1
            made += [self._between(value[place : word.start()]), self._word(word[0], lists, is_last)]
            place = word.end()
        return "".join(made) + self._between(value[place:])

    def lists(self, value: str) -> Pools:
        """Return the lists that fit the writing of a value."""
        locale = locale_of(value, self.locale)
        return self.home if self.home is not None and locale == self.locale else pools(locale)

    def _between(self, text: str) -> str:
        """Return what stands between names: a number there is part of the value."""
        return re.sub(r"\d+", lambda number: by_shape(number[0], self.rng), text)

    def _in_one_piece(self, lists: Pools) -> str:
        return untaken(lambda: self.rng.choice(lists.last) + self.rng.choice(lists.first), self.taken)

    def known(self, value: str) -> str | None:
        """Return what stands for a word that is part of a name of this record."""
        return self._parts.get(value.casefold())

    def _word(self, word: str, lists: Pools, is_last: bool) -> str:
        key = word.casefold()
        if key not in self._parts:
            if len(word) == 1:
                own = [made for part, made in self._parts.items() if part.startswith(key)]
                self._parts[key] = own[0][0] if own else self.rng.choice("ABCDEFGHJKLMNPRSTW")
            else:
                names, share = (lists.last, _NEW_LAST) if is_last else (lists.first, _NEW_FIRST)
                self._parts[key] = self._draw(names, share if word.isascii() else 0.0)
        made = self._parts[key]
        return made.upper() if word.isupper() and len(word) > 1 else made.lower() if word.islower() else made

    def _draw(self, names: tuple[str, ...], new: float = 0.0) -> str:
        def draw() -> str:
            return spelled(names, self.rng) if self.rng.random() < new else self.rng.choice(names)

        return untaken(draw, lambda drawn: len(drawn) < 2 or self.taken(drawn))
