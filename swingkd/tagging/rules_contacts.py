"""How people and machines are reached: mail, web, telephone, handles, network addresses."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import phonenumbers
import tldextract
from stdnum import isbn, issn

from swingkd.tagging.rule import (
    NOTHING,
    Rule,
    alone,
    always,
    beside,
    column_heading,
    digits_of,
    edged,
    in_table,
    is_cell,
    valid,
)
from swingkd.tagging.rules_dates import NUMERIC_DATE

_PHONE_CONTEXT = edged(
    r"(?<![A-Za-z])(?:phone|tel(?:ephone|efon|éfono|efono|efone)?|tf?no|mobile|móvil|mobil|cell|handy|fax|call|dial"
    r"|reach"
    r"|ring|text|sms|whatsapp|contact|number|office|home|desk|direct|hotline|rufnummer|numéro|n[úu]mero|appeler|gsm"
    r"|ll[áa]m[ae]\w*)(?![A-Za-z])"
    r"|电话|電話|手机|手機|携帯|联系|전화|휴대폰|연락처|โทร"
)
# Nothing else is meant by these.
_CALLED = edged(
    r"(?<![A-Za-z])(?:phone|tel(?:ephone|efon|éfono|efono|efone)?|mobile|móvil|mobil|handy|fax|call|sms|whatsapp"
    r"|gsm|ll[áa]m[ae]\w*|n[úu]mero\s(?:es|de\stel\w*)|rufnummer)(?![A-Za-z])|电话|電話|手机|手機|携帯|전화|휴대폰"
)
# Endings of file names; some are countries as well.
_FILES = frozenset(
    "py pyc pyi md rs sh pl cc so ps ml mm hs png jpg jpeg gif svg webp bmp ico pdf txt csv tsv json yaml yml toml "
    "xml html htm css js ts jsx tsx java c h cpp hpp go rb php sql zip tar gz bz2 xz whl exe dll bin dat log cfg ini "
    "lock "
    "mov mp3 mp4 wav avi doc docx xls xlsx ppt pptx".split()
)
# Names that no registry has, and that machines and examples use.
_LOCAL = frozenset("example test invalid local localhost internal corp lan home".split())


@lru_cache(maxsize=1)
def _suffixes() -> tldextract.TLDExtract:
    # The snapshot that ships with the library: no network, no cache folder.
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def is_public_ending(last: str) -> bool:
    """Tell whether the last part of a host is one that everybody shares: "org", "local"; in any case."""
    return last.lower() in _LOCAL or bool(_suffixes()(f"a.{last.lower()}").suffix)


def _judge_mail(match: re.Match[str]) -> float:
    host = match["host"].lower()
    last = host.rpartition(".")[2]
    if last in _FILES or last.isdigit():
        return 0.0  # logo@2x.png, lodash@4.17.21
    return 1.0 if last in _LOCAL or _suffixes()(host).suffix else 0.6


def _judge_domain(match: re.Match[str]) -> float:
    if match["scheme"]:
        return 0.8
    host = match["host"]
    # "end.Start" without a blank looks like a domain; real ones are written in one case.
    if not (host.islower() or host.isupper() or host.lower().startswith("www.")):
        return 0.0
    if host.lower().rpartition(".")[2] in _FILES and not host.lower().startswith("www."):
        return 0.0  # setup.py
    # A program's own names are called, indexed, compared and assigned.
    if re.match(r"\s?[=!<>]=|\s?=\s|[(\[=_]", match.string[match.end() : match.end() + 3]):
        return 0.0
    return 0.8 if _suffixes()(host).suffix else 0.0


def _judge_ip(match: re.Match[str]) -> float:
    text = match[0]
    # `b::` and `std::a` are names of programs.
    if ":" in text and (len(re.findall(r"[0-9A-Fa-f]", text)) < 4 or not re.search(r"\d", text)):
        return 0.0
    if _VERSION.search(match.string, max(match.start() - 24, 0), match.start()):
        return 0.0
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return 0.0
    return 1.0


_VERSION = re.compile(
    r"(?:\bversions?|\bver\.?|\bv\.?|\brelease|\bbuild|\bkernel|==)(?:\s(?:is|was|to))?[:=]?\s?$", re.IGNORECASE
)
_PAGES = re.compile(
    r"(?:\bpp?\.|\bpages?|\bpágs?\.?|\bpaginas?|\bSeiten?|(?<![\w.])S\.|\blines?|§+)\s?$", re.IGNORECASE
)
# 1.234.567, and with blanks 1 234 567: one number.
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3}){2,}|[1-9](?: \d{3}){2,}")
_DATE_FIRST = re.compile(r"(?:19|20)\d{2}([-/.])(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)")
_CARD = re.compile(r"\d{4}([ -])\d{4}\1\d{4}\1\d{4}")
_YEARS = re.compile(r"(?:1[5-9]|20)\d\d\s?[-/]\s?(?:(?:1[5-9]|20)\d\d|\d\d)")
_DECIMAL = edged(r"[-+]?\d+\.\d+")
_CHECK_LETTER, _ISSN = re.compile(r"-?[Xx](?!\w)"), re.compile(r"\d{4}-\d{3}[\dXx]")
_NAMED_ISBN = re.compile(r"\bIS[BS]N(?:-1[03])?(?:\s(?:number|no\.?))?:?\s?$", re.IGNORECASE)
_GROUPED = edged(r"\(\d{2,5}\)[ -]?\d|\d{3}[-.]\d{3}[-.]\d{4}")


def is_publication(match: re.Match[str]) -> bool:
    """Tell whether a number is an ISBN or ISSN: its check digit is right, and it is written like one."""
    text = match[0].strip(" ()")
    # Its check digit may be a letter.
    if x := _CHECK_LETTER.match(match.string, match.end()):
        text += x[0]
    digits = digits_of(text)
    if len(digits) in (7, 8) and _ISSN.fullmatch(text):
        return valid(issn.is_valid, text)
    if len(digits) not in (9, 10, 13) or not valid(isbn.is_valid, text):
        return False
    named = _NAMED_ISBN.search(match.string[max(match.start() - 24, 0) : match.start()])
    return digits.startswith(("978", "979")) or bool(named) or text.count("-") == 3


def _is_something_else(match: re.Match[str]) -> bool:
    """Tell whether a number is a book's, a year's, a page's, a version's, a card's, or one of many thousands."""
    text, start = match[0], match.start()
    if is_publication(match) or _YEARS.fullmatch(text) or any(map(_DECIMAL.fullmatch, text.split())):
        return True
    if _CARD.fullmatch(text):
        return True
    if text.startswith("+") or "(0)" in text or beside(match, _CALLED):
        return False
    if _DATE_FIRST.match(text) or _PAGES.search(match.string, max(start - 12, 0), start):
        return True
    parts = text.split(".")
    version = len(parts) >= 4 and any(len(part) == 1 or len(part) > 4 for part in parts)
    return version or _THOUSANDS.fullmatch(text) is not None


def _judge_phone(match: re.Match[str]) -> float:
    text = match[0]
    digits = digits_of(text)
    ungrouped = not text.startswith("+") and "\n" not in text and not _GROUPED.search(text)
    # Cheapest first: of a table of numbers each may be looked at, and each part.
    in_numbers = 7 <= len(digits) <= 15 and ungrouped and in_table(match)
    if (in_numbers and not _listed(match)) or _is_something_else(match):
        return NOTHING
    if not 7 <= len(digits) <= 15 or re.fullmatch(NUMERIC_DATE, text):
        return 0.0
    if text.startswith("+"):
        return 1.0
    if "\n" in text and not beside(match, _PHONE_CONTEXT):
        return 0.0  # Perhaps a list of them: its parts are looked at.
    if in_numbers:
        return 1.0
    if beside(match, _PHONE_CONTEXT) or _CALLED.search(column_heading(match).lower()):
        return 1.0
    if len(digits) == len(text) and is_cell(match):
        return NOTHING  # of a table, whose heading says nothing of telephones
    if len(digits) == len(text) and len(digits) < 10:
        return 0.0
    for region in ("US", "GB", "DE"):
        try:
            number = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException:
            continue
        # Of nothing but digits, any long number would be possible.
        known = phonenumbers.is_valid_number if len(digits) == len(text) else phonenumbers.is_possible_number
        if known(number):
            return 1.0
    return 0.6 if len(digits) != len(text) else 0.0


def _listed(match: re.Match[str]) -> bool:
    """Tell whether a number among numbers is a telephone's all the same: in a list of them."""
    text = match[0]
    if not 9 <= len(digits_of(text)) <= 13 or "\n" in text:
        return False
    if re.match(r"0[1-9]\d*[ /-]", text):
        return True  # No table writes its numbers so.
    # The rows of a table have more columns, or shorter numbers in them.
    groups = re.findall(r"\d+", text)
    few = len(groups) <= 4 and min(map(len, groups)) >= 3
    return few and alone(match) and any(_is_number(text, region) for region in ("US", "GB", "DE", "ES", "FR"))


def _is_number(text: str, region: str) -> bool:
    if not re.search(r"[ /-]", text):
        return False
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
    except phonenumbers.NumberParseException:
        return False


def _judge_handle(match: re.Match[str]) -> float:
    text, start = match.string, match.start()
    line = text[text.rfind("\n", 0, start) + 1 : start]
    rest = text[match.end() : match.end() + 200].split("\n")[0]
    # What stands alone at the beginning of a line, or is called there, is a decorator of a program.
    if not line.strip() and (
        not rest.strip() or rest[0] in "(." or re.match(r"\s*(?:class|def|public|private|interface)\b", rest)
    ):
        return 0.0
    return 0.6


_BLANKS = r"[ ().\-/\r\n]{0,4}"
CONTACT_RULES: tuple[Rule, ...] = (
    Rule(
        # With a name and a password in it; whole, whatever its parts look like.
        "URL_CREDENTIALS",
        edged(
            r"(?<![\w+.-])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/@:<>\"']*:(?!\d{1,5}/)[^\s@<>\"']+@[^\s<>\"']+"
            r"[^\s<>\"'.,;!?)\]]"
        ),
        always(1.0),
        re.compile(r"://[^\s@]*@"),
    ),
    Rule(
        "EMAIL_ADDRESS",
        edged(r"(?<![\w.+%'-])[\w.+%'-]{1,64}@(?P<host>(?:[\w-]{1,63}\.){1,8}\w{2,24})"),
        _judge_mail,
        ("@",),
    ),
    Rule(
        "DOMAIN_NAME",
        edged(
            r"(?<![\w@.-])(?P<scheme>(?:https?|ftp)://[^\s<>\"]+[^\s<>\".,;:!?)'\]])"
            r"|(?<![\w@.-])(?P<host>(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w@])"
            r"(?:/[^\s<>\"]*[^\s<>\".,;:!?)'\]])?"
        ),
        _judge_domain,
        ("://", re.compile(r"\.[A-Za-z]{2}")),
    ),
    Rule(
        "IP_ADDRESS",
        edged(
            r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
            r"|(?<![\w:.])(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:]{3,39}(?![\w:])"
        ),
        _judge_ip,
        (re.compile(r"\.\d{1,3}\.\d"), re.compile(r":(?<=[0-9A-Fa-f:]:)[0-9A-Fa-f]{0,4}:")),
    ),
    Rule(
        "MAC_ADDRESS",
        edged(
            r"(?<![\w-])(?<![0-9A-Fa-f]:)[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])"
            r"|(?<![\w.])(?=[0-9a-fA-F.]*[a-fA-F])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![\w.])"
        ),
        always(1.0),
        tuple(re.compile(mark) for mark in (":[0-9A-Fa-f]{2}:", "-[0-9A-Fa-f]{2}-", r"\.[0-9A-Fa-f]{4}\.")),
    ),
    Rule(
        "USERNAME",
        edged(
            r"(?<![A-Za-z])(?:user\s?name|user\s?id|screen\s?name|handle|nick(?:name)?|login|account\sname|twitter|instagram"
            r"|insta|telegram|discord|skype|snapchat|tiktok|github|gamertag|mastodon|bluesky)\s{0,2}(?:is|:|=|handle|account|name){1,2}"
            r"\s{0,2}[\"']?(?P<value>@?[\w.-]{2,38}\w(?:#\d{4})?)(?![\w(@])",
            re.IGNORECASE,
        ),
        lambda match: 1.0 if re.search(r"[\d_.@#-]", match["value"]) else 0.0,
        tuple(
            "username|user name|userid|user id|screen|handle|nick|login|account name|twitter|insta|telegram|discord"
            "|skype|snapchat|tiktok|github|gamertag|mastodon|bluesky".split("|")
        ),
    ),
    Rule(
        "USERNAME",
        edged(
            r"(?<![\w@.+/-])@[A-Za-z_][\w.]{1,29}\w(?:@[\w-]+\.[\w.]+\w)?(?![\w@/])|(?<![\w/])/?u/[\w-]{3,20}(?![\w/])"
        ),
        _judge_handle,
        ("@", "u/"),
    ),
)

PHONE_RULE = Rule(
    "PHONE_NUMBER",
    edged(
        rf"(?<![\w.$€£-])(?:\+ ?|\(\+?)?\d(?:{_BLANKS}\d){{5,16}}"
        r"(?:,?\s?(?:x|ext(?:ension|\.)?|durchwahl|poste)\s?\d{1,6})?"
        r"(?!\w|[.-]\d)",
        re.IGNORECASE,
    ),
    _judge_phone,
    edged(r"\d[\d ().\-/\r\n]{5}"),
    digits=True,
    parts=True,
    sizes=(7, 15),
    apart=True,
)
