"""Rules: formats, checksums and context words, with a well-kept library wherever one exists.

    >>> tags = RuleTagger().tag(["Mail ann@example.org, my pin is 4711."])[0]
    >>> [int(tags.likelihood[i]) for i in (0, 5, 32)]
    [0, 1, 1]

Likelihoods are certainty that the *format* is the private one: 1 for a verified checksum, an unmistakable format or a
number beside a word such as "account"; less for what is often public (web addresses, dates, long bare numbers).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
import tldextract
from stdnum import iban, luhn

from swingkd.tagging.base import BaseTagger, CharTags, empty_tags, paint

# How far from a number a word such as "account" still explains it, in characters.
_CONTEXT_BEFORE, _CONTEXT_AFTER = 60, 24

_ID_CONTEXT = re.compile(
    r"(?<![^\W_])(?:ids?|identifier|identity|numbers?|no\.|nr\.?|num|codes?|pins?|passwords?|passcode|accounts?|acct|orders?"
    r"|track(?:ing)?|tickets?|reference|ref|case|customer|member(?:ship)?|licen[cs]e|passport|ssn|social security"
    r"|card|policy|patient|mrn|record|routing|serial|invoice|confirmation|secret|key)(?![^\W_])",
    re.IGNORECASE,
)
_PHONE_CONTEXT = re.compile(
    r"\b(?:phone|tel(?:ephone)?|mobile|cell|fax|call|dial|reach|ring|text|sms|whatsapp|contact|number|office|home)\b",
    re.IGNORECASE,
)
_MONTHS = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)


@dataclass(frozen=True)
class Rule:
    """One kind of private text.

    Args:
        label: what is found, in the names that Presidio uses.
        pattern: candidates; compiled with the flags it needs.
        judge: called with the match; returns the likelihood of this candidate (0: not one).
        needs: a cheap test on the text; the pattern is tried only where it holds.
    """

    label: str
    pattern: re.Pattern[str]
    judge: Callable[[re.Match[str]], float]
    needs: re.Pattern[str]


_NUMERIC_DATE = r"(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/(?:\d{4}|\d{2})|\d{1,2}\.\d{1,2}\.\d{4})"


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _beside(match: re.Match[str], words: re.Pattern[str]) -> bool:
    """Tell whether one of the words stands near the match."""
    start, end = match.span()
    text = match.string
    return bool(
        words.search(text, max(0, start - _CONTEXT_BEFORE), start) or words.search(text, end, end + _CONTEXT_AFTER)
    )


@lru_cache(maxsize=1)
def _suffixes() -> tldextract.TLDExtract:
    # The snapshot that ships with the library: no network, no cache folder.
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def _judge_domain(match: re.Match[str]) -> float:
    if match["scheme"]:
        return 0.8
    host = match["host"]
    # "end.Start" without a blank looks like a domain; real ones are written in one case.
    if not (host.islower() or host.isupper() or host.lower().startswith("www.")):
        return 0.0
    return 0.8 if _suffixes()(host).suffix else 0.0


def _judge_ip(match: re.Match[str]) -> float:
    try:
        ipaddress.ip_address(match[0])
    except ValueError:
        return 0.0
    return 1.0


def _judge_card(match: re.Match[str]) -> float:
    digits = _digits(match[0])
    if not 12 <= len(digits) <= 19 or len(set(digits)) == 1:
        return 0.0
    return 1.0 if luhn.is_valid(digits) else 0.0


def _judge_iban(match: re.Match[str]) -> float:
    return 1.0 if iban.is_valid(match[0], check_country=False) else 0.0


def _judge_phone(match: re.Match[str]) -> float:
    digits = _digits(match[0])
    if not 7 <= len(digits) <= 15 or re.fullmatch(_NUMERIC_DATE, match[0]):
        return 0.0
    if _beside(match, _PHONE_CONTEXT) or match[0].startswith("+"):
        return 1.0
    if len(digits) == len(match[0]) and len(digits) < 10:
        return 0.0
    for region in ("US", "GB", "DE"):
        try:
            number = phonenumbers.parse(match[0], region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_possible_number(number):
            return 1.0
    return 0.6


def _judge_number(match: re.Match[str]) -> float:
    digits = len(_digits(match[0]))
    if digits >= 4 and _beside(match, _ID_CONTEXT):
        return 1.0
    return 0.6 if digits >= 9 else 0.0


def _judge_code(match: re.Match[str]) -> float:
    text = match[0]
    mixed = any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
    return 1.0 if (mixed or len(text) >= 8) and _beside(match, _ID_CONTEXT) else 0.0


def _always(likelihood: float) -> Callable[[re.Match[str]], float]:
    return lambda match: likelihood


_DIGIT4 = re.compile(r"\d[\d .\-]{2,}\d")
DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(
        "EMAIL_ADDRESS",
        re.compile(r"(?<![\w.+%'-])[\w.+%'-]{1,64}@(?:[\w-]{1,63}\.){1,8}\w{2,24}"),
        _always(1.0),
        re.compile("@"),
    ),
    Rule(
        "DOMAIN_NAME",
        re.compile(
            r"(?<![\w@.-])(?P<scheme>(?:https?|ftp)://[^\s<>\"]+[^\s<>\".,;:!?)'\]])"
            r"|(?<![\w@.-])(?P<host>(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w@])(?:/[^\s<>\"]*[^\s<>\".,;:!?)'\]])?"
        ),
        _judge_domain,
        re.compile(r"://|\w\.[A-Za-z]{2}"),
    ),
    Rule(
        "IP_ADDRESS",
        re.compile(
            r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
            r"|(?<![\w:.])(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:]{3,39}(?![\w:])"
        ),
        _judge_ip,
        re.compile(r"\d\.\d{1,3}\.\d|[0-9A-Fa-f:]:[0-9A-Fa-f]{0,4}:"),
    ),
    Rule(
        "US_SSN",
        re.compile(r"(?<![\d-])(?!000|666)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
        _always(1.0),
        re.compile(r"\d-\d\d-\d"),
    ),
    Rule(
        "CREDIT_CARD",
        re.compile(r"(?<![\w-])\d(?:[ -]?\d){11,18}(?![\w-])"),
        _judge_card,
        re.compile(r"\d{2}[\d -]{9}"),
    ),
    Rule(
        "IBAN_CODE",
        re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,4})?(?!\w)"),
        _judge_iban,
        re.compile(r"[A-Za-z]{2}\d{2}[ A-Za-z0-9]{8}"),
    ),
    Rule(
        "PHONE_NUMBER",
        re.compile(
            r"(?<![\w.$€£-])(?:\+|\(\+?)?\d(?:[ ().\-/]{0,3}\d){5,16}(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?!\w|[.-]\d)",
            re.IGNORECASE,
        ),
        _judge_phone,
        re.compile(r"\d[\d ().\-/]{5}"),
    ),
    Rule(
        "DATE_TIME",
        re.compile(
            rf"(?<![\w/.-]){_NUMERIC_DATE}(?![\w/-])"
            rf"|\b{_MONTHS}\s\d{{1,2}}(?:st|nd|rd|th)?\s?,?\s\d{{4}}\b"
            rf"|\b\d{{1,2}}(?:st|nd|rd|th)?\s(?:of\s)?{_MONTHS}\s?,?\s\d{{4}}\b",
            re.IGNORECASE,
        ),
        _always(0.6),
        re.compile(r"\d[-/.]\d|\d\d"),
    ),
    Rule(
        "ID_NUMBER",
        re.compile(r"(?<![^\W_])(?<![,-])(?<!\d\.)\d(?:[ -]?\d){3,24}(?![^\W_]|-|[.,]\d)"),
        _judge_number,
        _DIGIT4,
    ),
    Rule(
        "ID_CODE",
        re.compile(
            r"(?<![\w-])(?=[A-Z0-9-]*[A-Z])[A-Z0-9]+(?:-[A-Z0-9]+){0,4}(?<=[A-Z0-9-]{6})(?![\w-])"
            r"|(?<![\w-])(?=[A-Za-z-]*\d)(?=[\d-]*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+){0,4}(?<=[A-Za-z0-9-]{6})(?![\w-])"
        ),
        _judge_code,
        re.compile(r"[A-Z0-9-]{6}|[A-Za-z-]\d|\d[A-Za-z-]"),
    ),
)


class RuleTagger(BaseTagger):
    """Find private text by its format: e-mail, web and IP addresses, phone, card, account and id numbers, dates.

    Args:
        rules: which rules to apply; default `DEFAULT_RULES`.  Add your own with `(*DEFAULT_RULES, Rule(...))`.

    Names and postal addresses have no format: combine with `TokenClassificationTagger` or `PresidioTagger` for those.
    """

    def __init__(self, rules: tuple[Rule, ...] = DEFAULT_RULES):
        self.rules = rules
        self.labels = ("", *dict.fromkeys(rule.label for rule in rules))

    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text: likelihood and label of every character."""
        return [self._tag_one(text) for text in texts]

    def _tag_one(self, text: str) -> CharTags:
        tags = empty_tags(text)
        for rule in self.rules:
            if not rule.needs.search(text):
                continue
            label = self.labels.index(rule.label)
            for match in rule.pattern.finditer(text):
                likelihood = rule.judge(match)
                if likelihood > 0:
                    paint(tags, match.start(), match.end(), likelihood, label)
        return tags
