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

from swingkd.tagging.rule import LONG_WORD, NOTHING, Rule, alone, always, beside, digits_of, edged, in_table, valid
from swingkd.tagging.rules_contacts import is_publication

_ID_CONTEXT = edged(
    # Not a program's: token_id, self.id, status code.
    r"(?<![^\W_])(?<!token_)(?<!(?:status|return) )(?<!(?:error) )(?:(?<!\.)(?:ids?|key)|identifier|identity|no\.|num"
    r"|[a-zäöü]*nr\.?|№|codes?|pins?|passwords?|passcode|otp|accounts?(?!\s+for\s+$)|acct"
    r"|track(?:ing)?|tickets?|reference|ref|customer|member(?:ship)?|licen[cs]e|passport|ssn|social security"
    r"|card|policy|patient|mrn|routing|serial|invoice|confirmation|secret"
    # "A number of people", "in the case of", "of the order of": no word about a number.
    r"|(?:numbers?|orders?|case|record)(?!\s+of\b)"
    r"|[a-zäöü]*(?:nummer|kennzeichen)|[a-z]+-nr\.?|aktenzeichen|konto|ausweis|n[°º]|dossier|compte|commande|client"
    r"|expediente|historia|cuenta|cliente|pedido|c[óo]digo|clave|documento|conto|pratica|codice|tessera|conta|processo"
    r"|rekening|klant|numer|klient|паспорт|сч[её]т|номер|договор|код)(?![^\W_])"
    r"|号码|號碼|编号|編號|番号|账号|帐号|帳號|卡号|口座|身份证|身分證|护照|订单|验证码|密码|密碼|暗証|번호|계좌|비밀번호"
)
# A year, or the size of something in a computer, needs the word right before it.
_YEAR_OR_SIZE = re.compile(r"(?:19|20)\d\d|1024|2048|4096|8192|16384|32768|65536")
_RIGHT_BEFORE = re.compile(
    r"(?:pin|code|password|passcode|account|number|no\.|id|nr\.?|card|ticket|order|invoice|case"
    r"|ref(?:erence)?)(?:\s(?:is|was))?\s?[:=#]?\s?$",
    re.IGNORECASE,
)
# A number that is assigned to a name, unless that says whose it is, or computed with.
_CALCULATED = re.compile(
    r"(?:[\w\])](?<!id)(?<!no)(?<!nr)(?<!num)(?<!number)(?<!account))\s?(?:[=<>%+*/]=?|\bmod)\s?$", re.IGNORECASE
)
# Of a national number whose checksum is weak, or that is nothing but digits.
_NATIONAL_CONTEXT = edged(
    r"(?<![A-Za-z])(?:ssn|nhs|bsn|cpf|cpr|pesel|aadhaar|pan|nir|insee|nino|steuer|idnr|personnummer|burgerservice|sécurité"
    r"|securite|social|tax|fiscal|national|identity|citizen|id|dni|nie)(?![A-Za-z])|身份证|身分證|証号码|주민등록"
)
_FIGURES = re.compile(r"[\d .]+")
_VEHICLE_CONTEXT = edged(r"(?<![A-Za-z])(?:vin|chassis|vehicle|fahrgestell\w*|frame)(?![A-Za-z])")

# How issuers' numbers begin, and how long they are.
_ISSUERS = edged(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d{2})\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"
    r"|3(?:0[0-5]|095|6\d|8\d|9\d)\d{11,16}|62\d{14,17}|(?:5[0678]|6\d|0604)\d{10,17}"
)

_CARD_CONTEXT = re.compile(
    r"(?<![A-Za-z])(?:card|visa|master\s?card|amex|credit|debit|karte|tarjeta|carte)(?![A-Za-z])"
)


def _judge_card(match: re.Match[str]) -> float:
    digits = digits_of(match[0])
    if not 12 <= len(digits) <= 19 or not _ISSUERS.fullmatch(digits):
        return 0.0
    if is_publication(match):
        return NOTHING
    # In a table too: a column of cards is no table of numbers.
    if len(set(digits)) > 1 and valid(luhn.is_valid, digits):
        # Of numbers that stand in a row by chance, some would be one.
        grouped = re.fullmatch(r"\d+|(?:\d{4}([ -]|\r?\n)){3}\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}", match[0])
        of_its_own = match[0].isdigit() or alone(match) or not in_table(match)
        return 1.0 if (grouped and of_its_own) or beside(match, _CARD_CONTEXT) else 0.0
    # With a slip in it, by the way it is written.
    written = re.fullmatch(r"\d{4}([ -])\d{4}\1\d{4}\1\d{4}", match[0])
    if not written or len(set(digits)) < 3 or in_table(match):
        return 0.0
    return 0.6 if beside(match, _CARD_CONTEXT) else 0.0


def _judge_iban(match: re.Match[str]) -> float:
    return 1.0 if valid(partial(iban.is_valid, check_country=False), re.sub(r"[\s.]", " ", match["value"])) else 0.0


def _judge_national(match: re.Match[str]) -> float:
    text = re.sub(r"[\s.-]", "", match[0])
    # Of nothing but eight digits, say, each of these says no.
    sure = [] if _FIGURES.fullmatch(match[0]) else [dni, nie, hetu]
    sure += ([codicefiscale] if len(text) in (11, 16) else []) + ([cpf] if "." in match[0] else [])
    if any(valid(kind.is_valid, match[0]) or valid(kind.is_valid, text) for kind in sure):
        return 1.0
    weak = (nir, ric, pan, cpf, aadhaar, pesel, bsn, cpr, nhs, idnr, personnummer)
    if beside(match, _NATIONAL_CONTEXT) and any(valid(kind.is_valid, text) for kind in weak):
        return 1.0
    british = re.fullmatch(r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]", text)
    return 1.0 if british else 0.0


_VIN_VALUES = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", "12345678123457923456789", strict=True))
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def _judge_vehicle(match: re.Match[str]) -> float:
    text = match[0].upper()
    if not (re.search(r"\d", text) and re.search(r"[A-Z]", text)):
        return 0.0
    if text != match[0]:
        return 1.0 if beside(match, _VEHICLE_CONTEXT) else 0.0
    # ISO 3779 and 49 CFR 565: European ones carry no check digit, so the word has to stand beside them.
    total = sum(int(_VIN_VALUES.get(c, c)) * weight for c, weight in zip(text, _VIN_WEIGHTS, strict=True))
    return 1.0 if "0123456789X"[total % 11] == text[8] or beside(match, _VEHICLE_CONTEXT) else 0.0


def _judge_number(match: re.Match[str]) -> float:
    digits = len(digits_of(match[0]))
    if is_publication(match):
        return 0.0
    text, start = match.string, match.start()
    if _YEAR_OR_SIZE.fullmatch(match[0]) and not _RIGHT_BEFORE.search(text, max(start - 24, 0), start):
        return 0.0
    if digits >= 4 and beside(match, _ID_CONTEXT) and not in_table(match):
        return 1.0
    calculated = _CALCULATED.search(text, max(start - 12, 0), start)
    return 0.6 if digits >= 9 and not calculated and not in_table(match) else 0.0


def _judge_code(match: re.Match[str]) -> float:
    text = match[0]
    mixed = any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
    return 1.0 if (mixed or len(text) >= 8) and beside(match, _ID_CONTEXT) else 0.0


NUMBER_RULES: tuple[Rule, ...] = (
    Rule(
        "US_SSN",
        edged(r"(?<![\d-])(?!000|666)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
        always(1.0),
        re.compile(r"-\d\d-\d"),
        digits=True,
    ),
    Rule(
        "IBAN_CODE",
        edged(
            r"(?<!\w)(?:IBAN)?"
            r"(?P<value>(?:[A-Za-z]{2}|[A-Z]{2}[ .](?=\d{2}[ .]\w{4}))\d{2}[A-Za-z0-9]{0,30}"
            r"(?:(?:[ .-]|\r?\n)[A-Za-z0-9]{1,30}){0,9})(?!\w)"
        ),
        _judge_iban,
        re.compile(r"\d\d(?:(?<=[A-Za-z]{2}\d\d)|(?<=[A-Z]{2}[ .]\d\d)(?=[ .]))[ .A-Za-z0-9\r\n-]{8}"),
        parts=True,
        digits=True,
        sizes=(15, 38),
    ),
    Rule(
        "CREDIT_CARD",
        edged(r"(?i:(?<![\w-])|(?<=visa)|(?<=card)|(?<=amex))\d(?:(?:[ -]|\r?\n)?\d){11,22}(?![\w-])"),
        _judge_card,
        re.compile(r"\d{2}[\d \r\n-]{9}"),
        digits=True,
        parts=True,
        sizes=(12, 19),
        apart=True,
    ),
    Rule(
        "NATIONAL_ID",
        edged(
            r"(?<![\w-])(?:[XYZxyz]?[- ]?\d{7,8}[- ]?[A-Za-z]|\d{1,2}\.\d{3}\.\d{3}[- ]?[A-Za-z]"
            r"|[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]"
            r"|\d{3}\.\d{3}\.\d{3}-\d{2}|\d{6}[-+A]\d{3}[0-9A-Z]|[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}"
            r"|[A-Z]{5}\d{4}[A-Z]|[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]|\d{17}[\dX]|\d{4} ?\d{4} ?\d{4}"
            r"|\d{3} ?\d{3} ?\d{4}|\d{8,11}|\d{6,8}-\d{4})"
            r"(?![\w-])"
        ),
        _judge_national,
        re.compile(r"\d{3}"),
        digits=True,
    ),
    Rule(
        "VEHICLE_ID",
        edged(r"(?<![\w-])(?:[A-HJ-NPR-Z0-9]{17}|[a-hj-npr-z0-9]{17})(?![\w-])"),
        _judge_vehicle,
        LONG_WORD,
        digits=True,
    ),
)
ID_RULES: tuple[Rule, ...] = (
    Rule(
        "ID_CODE",
        edged(r"(?<![\w-])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![\w-])"),
        lambda match: 1.0 if beside(match, _ID_CONTEXT) else 0.6,
        re.compile(r"-[0-9a-fA-F]{12}"),
        apart=True,
    ),
    Rule(
        "ID_NUMBER",
        edged(r"(?<![^\W_])(?<![,-])(?<!\d\.)\d(?:[ -]?\d){3,24}(?![^\W_]|-|[.,]\d)"),
        _judge_number,
        re.compile(r"\d[\d -]{2,}\d"),
        digits=True,
        apart=True,
    ),
    Rule(
        "ID_CODE",
        edged(
            # The class comes first: all other characters are passed over at once.
            r"[A-Z0-9](?<![\w-][A-Z0-9])(?=(?<=[A-Z])|[A-Z0-9-]*[A-Z])[A-Z0-9]*(?:-[A-Z0-9]+){0,4}(?<=[A-Z0-9-]{6})(?![\w-])"
        ),
        _judge_code,
        re.compile(r"[A-Z0-9-]{6}"),
    ),
    Rule(
        "ID_CODE",
        edged(
            r"(?<![\w-])(?=[A-Za-z-]*\d)(?=[\d-]*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+){0,4}(?<=[A-Za-z0-9-]{6})(?![\w-])"
        ),
        _judge_code,
        re.compile(r"\d(?:(?<=[A-Za-z-]\d)|[A-Za-z-])"),
        digits=True,
    ),
)
