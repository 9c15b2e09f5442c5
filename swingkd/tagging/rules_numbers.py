"""Numbers of cards, accounts, people and vehicles: by their checksums, or by the words beside them."""

from __future__ import annotations

import re
from functools import partial

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

from swingkd.tagging.rule import NOTHING, Rule, always, beside, digits_of, in_table, valid
from swingkd.tagging.rules_contacts import is_publication

_ID_CONTEXT = re.compile(
    r"(?<![^\W_])(?:ids?|identifier|identity|no\.|nr\.?|num|codes?|pins?|passwords?|passcode|accounts?|acct"
    r"|track(?:ing)?|tickets?|reference|ref|customer|member(?:ship)?|licen[cs]e|passport|ssn|social security"
    r"|card|policy|patient|mrn|routing|serial|invoice|confirmation|secret|key"
    # "A number of people", "in the case of", "of the order of": no word about a number.
    r"|(?:numbers?|orders?|case|record)(?!\s+of\b))(?![^\W_])",
    re.IGNORECASE,
)
# Of a national number whose checksum is weak, or that is nothing but digits.
_NATIONAL_CONTEXT = re.compile(
    r"(?<![A-Za-z])(?:ssn|nhs|bsn|cpf|cpr|pesel|aadhaar|pan|nir|insee|nino|steuer|idnr|personnummer|burgerservice|sécurité"
    r"|securite|social|tax|fiscal|national|identity|citizen|id|dni|nie)(?![A-Za-z])",
    re.IGNORECASE,
)
_VEHICLE_CONTEXT = re.compile(r"(?<![A-Za-z])(?:vin|chassis|vehicle|fahrgestell\w*|frame)(?![A-Za-z])", re.IGNORECASE)

# How issuers' numbers begin, and how long they are.
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d{2})\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"
    r"|3(?:0[0-5]|095|6\d|8\d|9\d)\d{11,16}|62\d{14,17}|(?:5[0678]|6\d|0604)\d{10,17}"
)


def _judge_card(match: re.Match[str]) -> float:
    digits = digits_of(match[0])
    if not 12 <= len(digits) <= 19 or not _ISSUERS.fullmatch(digits):
        return 0.0
    if is_publication(match):
        return NOTHING
    # In a table too: a column of cards is no table of numbers.
    return 1.0 if len(set(digits)) > 1 and valid(luhn.is_valid, digits) else 0.0


def _judge_iban(match: re.Match[str]) -> float:
    return 1.0 if valid(partial(iban.is_valid, check_country=False), re.sub(r"\s", " ", match[0])) else 0.0


def _judge_national(match: re.Match[str]) -> float:
    text = re.sub(r"[\s.-]", "", match[0])
    sure = [dni, nie, codicefiscale, hetu] + ([cpf] if "." in match[0] else [])
    if any(valid(kind.is_valid, match[0]) or valid(kind.is_valid, text) for kind in sure):
        return 1.0
    weak = (nir, ric, pan, cpf, aadhaar, pesel, bsn, cpr, nhs, idnr, personnummer)
    if any(valid(kind.is_valid, text) for kind in weak) and beside(match, _NATIONAL_CONTEXT):
        return 1.0
    british = re.fullmatch(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]", text)
    return 1.0 if british else 0.0


_VIN_VALUES = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", "12345678123457923456789", strict=True))
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def _judge_vehicle(match: re.Match[str]) -> float:
    text = match[0]
    if not (re.search(r"\d", text) and re.search(r"[A-Z]", text)):
        return 0.0
    # ISO 3779 and 49 CFR 565: European ones carry no check digit, so the word has to stand beside them.
    total = sum(int(_VIN_VALUES.get(c, c)) * weight for c, weight in zip(text, _VIN_WEIGHTS, strict=True))
    return 1.0 if "0123456789X"[total % 11] == text[8] or beside(match, _VEHICLE_CONTEXT) else 0.0


def _judge_number(match: re.Match[str]) -> float:
    digits = len(digits_of(match[0]))
    if is_publication(match):
        return 0.0
    if digits >= 4 and beside(match, _ID_CONTEXT) and not in_table(match):
        return 1.0
    return 0.6 if digits >= 9 and not in_table(match) else 0.0


def _judge_code(match: re.Match[str]) -> float:
    text = match[0]
    mixed = any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
    return 1.0 if (mixed or len(text) >= 8) and beside(match, _ID_CONTEXT) else 0.0


NUMBER_RULES: tuple[Rule, ...] = (
    Rule(
        "US_SSN",
        re.compile(r"(?<![\d-])(?!000|666)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
        always(1.0),
        re.compile(r"\d-\d\d-\d"),
    ),
    Rule(
        "IBAN_CODE",
        re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}[A-Za-z0-9]{0,30}(?:(?:[ -]|\r?\n)[A-Za-z0-9]{1,30}){0,9}(?!\w)"),
        _judge_iban,
        re.compile(r"[A-Za-z]{2}\d{2}[ A-Za-z0-9\r\n-]{8}"),
        parts=True,
    ),
    Rule(
        "CREDIT_CARD",
        re.compile(r"(?<![\w-])\d(?:(?:[ -]|\r?\n)?\d){11,22}(?![\w-])"),
        _judge_card,
        re.compile(r"\d{2}[\d \r\n-]{9}"),
        parts=True,
        apart=True,
    ),
    Rule(
        "NATIONAL_ID",
        re.compile(
            r"(?<![\w-])(?:[XYZxyz]?[- ]?\d{7,8}[- ]?[A-Za-z]|[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]"
            r"|\d{3}\.\d{3}\.\d{3}-\d{2}|\d{6}[-+A]\d{3}[0-9A-Z]|[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}"
            r"|[A-Z]{5}\d{4}[A-Z]|[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]|\d{17}[\dX]|\d{4} ?\d{4} ?\d{4}"
            r"|\d{3} ?\d{3} ?\d{4}|\d{8,11}|\d{6,8}-\d{4})"
            r"(?![\w-])"
        ),
        _judge_national,
        re.compile(r"\d{3}"),
    ),
    Rule(
        "VEHICLE_ID",
        re.compile(r"(?<![\w-])[A-HJ-NPR-Z0-9]{17}(?![\w-])"),
        _judge_vehicle,
        re.compile(r"[A-Z0-9]{17}"),
    ),
)
ID_RULES: tuple[Rule, ...] = (
    Rule(
        "ID_NUMBER",
        re.compile(r"(?<![^\W_])(?<![,-])(?<!\d\.)\d(?:[ -]?\d){3,24}(?![^\W_]|-|[.,]\d)"),
        _judge_number,
        re.compile(r"\d[\d .\-]{2,}\d"),
        apart=True,
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
