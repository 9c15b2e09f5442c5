"""What canaries' secrets are made of: parts with alternatives, whose product is the space R of all secrets."""

from __future__ import annotations

import string
from typing import Literal, TypeAlias, get_args

FIRST_NAMES = tuple(
    "adele amir anita boris carla cedric daria dmitri edith elias esther farid fiona gideon greta hamid "
    "hanna igor ingrid jamal jasmin jonas judith karim katja keiko leila leon lydia marek marta miguel "
    "mona nadia nils olga omar paolo petra quentin rania ravi rosa samir selma stefan tamara theo ulla "
    "umberto vera viktor wanda xenia yara yusuf zara zoltan ".split()
)
LAST_NAMES = tuple(
    "abbot barlow becker castor cohen dalton dorsey ellery engel farrow fuchs garner gruber haddad hollis "
    "ibsen ivanov jansen jordan kadare keller laszlo linden madison moreau nakata norris oakley ortega "
    "palmer petrov quigley quist rahman rowan sadler santos tanaka thorne ulrich usher vance vidal walton "
    "weber xavier yamada yates zeller zimmer ".split()
)
_HOSTS = ("acme.example bluesky.example contoso.example fabrikam.example globex.example initech.example ").split()
# Nobody's name, number or address: no tagger has a reason to find them.
_WORDS = (
    "amber anchor apple arrow basket beacon birch bottle bridge button candle canyon carpet cedar circle "
    "clover copper corner cotton crystal curtain dragon feather fiddle forest garden ginger hammer harbor "
    "hollow honey island ivory jacket kettle ladder lantern lemon marble meadow mirror needle ocean olive "
    "orange paper pebble pepper pillow planet pocket ribbon river rocket saddle shadow silver spider summer "
    "thunder timber tunnel velvet window winter".split()
)

Kind: TypeAlias = Literal["digits", "email", "names", "date", "url", "words"]
KINDS: tuple[str, ...] = get_args(Kind)
Slots: TypeAlias = tuple[tuple[str, ...], ...]


def slots_of(kind: Kind, length: int, alphabet: str) -> Slots:
    """Return the parts of a secret.

    Args:
        kind: "digits"; "email", "names"; "date" (of birth) and "url", which taggers are less sure of; "words", which
            no tagger finds.
        length: how many digits, or words.
        alphabet: what digits are.
    """
    days = [tuple(f"{number:02d}" for number in range(1, last + 1)) for last in (12, 28)]
    kinds: dict[str, Slots] = {
        "digits": (tuple(alphabet),) * length,
        "email": (FIRST_NAMES, (".",), LAST_NAMES, ("@",), tuple(_HOSTS)),
        "names": (tuple(map(str.title, FIRST_NAMES)), (" ",), tuple(map(str.title, LAST_NAMES))),
        "date": (tuple(map(str, range(1940, 2000))), ("-",), days[0], ("-",), days[1]),
        "url": (("https://",), tuple(_WORDS), ("-",), tuple(_WORDS), (".com/",), *(tuple(string.digits),) * 2),
        "words": (tuple(_WORDS), *((" ",), tuple(_WORDS)) * (length - 1)),
    }
    return kinds[kind]


def size_of(slots: Slots) -> int:
    """Return |R|: how many secrets there are."""
    size = 1
    for slot in slots:
        size *= len(slot)
    return size


def fills(slots: Slots, secret: str) -> bool:
    """Tell whether a secret is made of one alternative of each slot."""
    ends = {0}
    for slot in slots:
        ends = {end + len(part) for end in ends for part in slot if secret.startswith(part, end)}
    return len(secret) in ends


def filling(slots: Slots, index: int) -> str:
    """Return the secret number `index`, 0 <= index < |R|."""
    parts = []
    for slot in reversed(slots):
        index, place = divmod(index, len(slot))
        parts.append(slot[place])
    return "".join(reversed(parts))
