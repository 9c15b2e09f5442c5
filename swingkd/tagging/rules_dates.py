"""Dates and times: in figures, in words of many languages, and as computers write them."""

from __future__ import annotations

import re

from swingkd.tagging.rule import Rule, edged

# Months as CLDR has them (babel), whole and short, in the cases that dates take.
_MONTHS = """
january february march april may june july august september october november december
jan feb mar apr jun jul aug sep sept oct nov dec
januar februar märz maerz mai juni juli oktober dezember jänner mär okt dez
janvier février fevrier mars avril juin juillet août aout septembre octobre novembre décembre decembre
janv févr avr juil déc
enero febrero marzo abril mayo junio julio agosto septiembre setiembre octubre noviembre diciembre
ene abr ago dic
gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre
gen mag giu lug set ott
janeiro fevereiro março maio junho julho setembro outubro novembro dezembro
fev mai out
januari februari maart mei augustus mrt
stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia
augusti maj februar marts desember
tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta heinäkuuta elokuuta syyskuuta lokakuuta marraskuuta
joulukuuta
ledna února března dubna května června července srpna září října listopadu prosince
ianuarie februarie martie aprilie iunie iulie septembrie octombrie noiembrie decembrie
ocak şubat mart nisan mayıs haziran temmuz ağustos eylül ekim kasım aralık
января февраля марта апреля мая июня июля августа сентября октября ноября декабря
січня лютого березня квітня травня червня липня серпня вересня жовтня листопада грудня
január február március április május június július augusztus szeptember október december
يناير فبراير مارس أبريل ابريل مايو يونيو يوليو أغسطس اغسطس سبتمبر أكتوبر اكتوبر نوفمبر ديسمبر
ינואר פברואר מרץ אפריל מאי יוני יולי אוגוסט ספטמבר אוקטובר נובמבר דצמבר
ιανουαρίου φεβρουαρίου μαρτίου απριλίου μαΐου ιουνίου ιουλίου αυγούστου σεπτεμβρίου οκτωβρίου νοεμβρίου δεκεμβρίου
""".split()
_KNOWN = frozenset(_MONTHS)
_BORN = (
    r"(?:D\.?O\.?B\.?|birth[\s_-]?(?:date|day)?|born|geb(?:oren|urtsdatum)?\.?|née?|nacid[oa]|nascid[oa]|nat[oa]\sil"
    r"|fecha\sde\snacimiento|date\sde\snaissance|data\sd[ei]\s(?:nascimento|nascita))"
)
# Whether it is one, the judge looks up.
_MONTH = r"[^\W\d_]{3,14}\.?"
_DAY = r"\d{1,2}(?:\.|º|°|ª|st|nd|rd|th|er|ère|re|:e)?"
_OF = r"(?:\s?(?:of|de|del|di|do|d['’]|den|the)\s?)"
#: A date in figures.
NUMERIC_DATE = (
    r"(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}|\d{1,2}/\d{1,2}/\d{2}|\d{2}([.-])\d{2}\3\d{2})"
)
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?"


def _judge_figures(match: re.Match[str]) -> float:
    if re.match(r"[^\d]|\d{1,2}/[A-Za-z]", match[0]):
        return 0.6  # An era, or a month by its name.
    figures = [int(number) for number in re.findall(r"\d+", match[0].partition(":")[0])][:3]
    if len(figures) < 3:
        return 0.6  # Written in one piece.
    year, *others = sorted(figures, reverse=True) if max(figures) > 31 else (0, *figures)
    day_and_month = others if max(figures) > 31 else figures
    plausible = max(day_and_month) <= 31 and min(day_and_month) <= 12 and min(figures[:2]) >= 1
    return 0.6 if plausible and (year <= 99 or 1800 <= year <= 2150) else 0.0


def _judge_in_one_piece(match: re.Match[str]) -> float:
    value = match["value"]
    pairs = [(value[4:6], value[6:]), (value[2:4], value[:2]), (value[2:4], value[4:])]
    return 0.6 if any(m and d and 1 <= int(m) <= 12 and 1 <= int(d) <= 31 for m, d in pairs) else 0.0


def _judge_words(match: re.Match[str]) -> float:
    return 0.6 if any(word.lower() in _KNOWN for word in re.findall(r"[^\W\d_]{3,}", match[0])) else 0.0


DATE_RULES: tuple[Rule, ...] = (
    Rule(
        "DATE_TIME",
        edged(
            rf"(?<![\w/.-])\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_TIME}(?:\s?(?:Z|UTC|GMT|[+-]\d{{2}}:?\d{{2}})\b)?)?"
            r"(?![\w/-])"
            r"|(?<![\w/-])\d{8}T\d{6}(?:Z|[+-]\d{4})?(?!\w)"
            rf"|(?<![\w/.-]){NUMERIC_DATE}(?:,?\s{_TIME}(?:\s?[ap]\.?m\b)?)?(?![\w/-]|\.\d)"
            rf"|(?<!\d)\d{{1,2}}/[A-Za-z]{{3}}/\d{{4}}:{_TIME}(?: [+-]\d{{4}})?"  # web servers
            r"|(?<![\w.])(?:\d{1,2}\. \d{1,2}\. \d{4}|\d{4}\. \d{1,2}\. \d{1,2}\.?)(?![\w-]|\.\d)"
            r"|(?:明治|大正|昭和|平成|令和)\s?(?:\d{1,2}|元)\s?年\s?\d{1,2}\s?月\s?\d{1,2}\s?日"
            r"|(?<!\w)\d{1,2}\s{1,2}tháng\s{1,2}\d{1,2},?\s{1,2}(?:năm\s{1,2})?\d{4}(?!\d)"
            r"|\d{4}\s?年\s?\d{1,2}\s?月\s?\d{1,2}\s?日|\d{4}\s?년\s?\d{1,2}\s?월\s?\d{1,2}\s?일",
            re.IGNORECASE,
        ),
        _judge_figures,
        (
            *(re.compile(rf"{mark}\d{{1,2}}{mark}\d") for mark in ("-", "/", r"\.", r"\. ")),
            re.compile(r"/[A-Za-z]{3}/\d"),
            re.compile(r"[Tt](?<=\d[Tt])\d"),
            "年",
            "년",
            "tháng",
        ),
        digits=True,
    ),
    Rule(
        "DATE_TIME",
        edged(
            rf"(?<!\w){_MONTH}\s{{1,2}}{_DAY}\s?,?\s\d{{4}}(?!\w)"
            rf"|(?<!\w)\d{{4}}\s{{1,2}}{_MONTH}\s{{1,2}}{_DAY}(?!\w)"
            rf"|(?<!\w){_DAY}(?:\s?|{_OF}){_MONTH}(?:,?\s{{1,2}}|{_OF}|-)\d{{4}}(?!\w)"
            rf"|(?<!\w)\d{{1,2}}-{_MONTH}-\d{{2,4}}(?!\w)",
            re.IGNORECASE,
        ),
        _judge_words,
        # A letter, a stop or a comma before the year; a letter behind the day or the year.
        re.compile(r"\d(?:\d{3}(?:(?<=[^\W\d][ -]\d{4})|(?<=[\d.,] \d{4})| {1,2}[^\W\d]{3})|-[^\W\d]{3})"),
        digits=True,
    ),
    Rule(
        "DATE_TIME",
        edged(
            rf"(?<![^\W\d_]){_BORN}[\s:=\"'-]{{0,5}}(?:on\s|am\s|le\s|el\s)?(?P<value>\d{{8}}|\d{{6}})(?!\w)",
            re.IGNORECASE,
        ),
        _judge_in_one_piece,
        re.compile(r"\d{6}"),
        digits=True,
    ),
)
