"""Dates and times: in figures, in words of many languages, and as computers write them."""

from __future__ import annotations

import re

from swingkd.tagging.rule import Rule

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
ιανουαρίου φεβρουαρίου μαρτίου απριλίου μαΐου ιουνίου ιουλίου αυγούστου σεπτεμβρίου οκτωβρίου νοεμβρίου δεκεμβρίου
""".split()
_KNOWN = frozenset(_MONTHS)
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
    figures = [int(number) for number in re.findall(r"\d+", match[0].partition(":")[0])][:3]
    if len(figures) < 3:
        return 0.6  # Written in one piece.
    year, *others = sorted(figures, reverse=True) if max(figures) > 31 else (0, *figures)
    day_and_month = others if max(figures) > 31 else figures
    plausible = max(day_and_month) <= 31 and min(day_and_month) <= 12 and min(figures[:2]) >= 1
    return 0.6 if plausible and (year <= 99 or 1800 <= year <= 2150) else 0.0


def _judge_words(match: re.Match[str]) -> float:
    return 0.6 if any(word.lower() in _KNOWN for word in re.findall(r"[^\W\d_]{3,}", match[0])) else 0.0


DATE_RULES: tuple[Rule, ...] = (
    Rule(
        "DATE_TIME",
        re.compile(
            rf"(?<![\w/.-])\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_TIME}(?:\s?(?:Z|UTC|GMT|[+-]\d{{2}}:?\d{{2}})\b)?)?"
            r"(?![\w/-])"
            r"|(?<![\w/-])\d{8}T\d{6}(?:Z|[+-]\d{4})?(?!\w)"
            rf"|(?<![\w/.-]){NUMERIC_DATE}(?:,?\s{_TIME}(?:\s?[ap]\.?m\b)?)?(?![\w/-]|\.\d)"
            r"|\d{4}\s?年\s?\d{1,2}\s?月\s?\d{1,2}\s?日|\d{4}\s?년\s?\d{1,2}\s?월\s?\d{1,2}\s?일",
            re.IGNORECASE,
        ),
        _judge_figures,
        re.compile(r"\d[-/.]\d|\d\s?[年년]|\dT\d"),
    ),
    Rule(
        "DATE_TIME",
        re.compile(
            rf"(?<!\w){_MONTH}\s{{1,2}}{_DAY}\s?,?\s\d{{4}}(?!\w)"
            rf"|(?<!\w){_DAY}(?:\s?|{_OF}){_MONTH}(?:,?\s{{1,2}}|{_OF}|-)\d{{4}}(?!\w)"
            rf"|(?<!\w)\d{{1,2}}-{_MONTH}-\d{{2,4}}(?!\w)",
            re.IGNORECASE,
        ),
        _judge_words,
        re.compile(r"[^\W\d]\.?,?[ -]\d{4}|\d[^\W\d]*,? \d{4}|\d-[^\W\d]{3}"),
    ),
)
