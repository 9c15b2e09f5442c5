"""One made-up value: its shape, its checksums, its date."""

import re
import unicodedata
from datetime import date, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import iban, luhn
from stdnum.de import idnr
from stdnum.gb import nhs
from stdnum.us import ssn

from swingkd.surrogates import Surrogates
from swingkd.surrogates.dates import draw_move, is_date, moved
from swingkd.surrogates.names import People
from swingkd.surrogates.shapes import by_shape, host, network_address, number
from swingkd.tagging.rule import digits_of


@given(st.text(max_size=40), st.integers(0, 10))
def test_a_shape_is_kept_character_by_character(value, seed):
    made = by_shape(value, Random(seed))
    assert len(made) == len(value)
    for one, other in zip(value, made, strict=True):
        assert unicodedata.category(one) == unicodedata.category(other) or one in "aeiouAEIOU"
        assert one.isdecimal() == other.isdecimal()
        assert one == other or one.isdecimal() or one.isalpha() or unicodedata.category(one).startswith("M")
    for run in re.finditer(r"\d+", value):
        assert unicodedata.digit(made[run.start()]) != 0


def test_every_digit_and_letter_is_drawn_as_often():
    rng = Random(0)
    made = "".join(by_shape("x7", rng) for _ in range(26_000))
    counts = [made.count(c) for c in "abcdefghijklmnopqrstuvwxyz"]
    assert min(counts) > 850
    assert max(counts) < 1150
    counts = [made.count(c) for c in "123456789"]
    assert min(counts) > 2650
    assert max(counts) < 3130


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("value", "label", "check", "kept"),
    [
        ("4111 1111 1111 1111", "CREDIT_CARD", lambda text: luhn.is_valid(digits_of(text)), "41"),
        ("378282246310005", "CREDIT_CARD", luhn.is_valid, "37"),
        ("DE89 3704 0044 0532 0130 00", "IBAN_CODE", iban.is_valid, "DE"),
        ("GB29NWBK60161331926819", "IBAN_CODE", iban.is_valid, "GB"),
        ("536-90-4399", "US_SSN", ssn.is_valid, ""),
        ("86 095 742 719", "NATIONAL_ID", idnr.is_valid, ""),
        ("943 476 5870", "NATIONAL_ID", nhs.is_valid, ""),
    ],
)
def test_checksums_hold(value, label, check, kept, seed):
    assert check(value)
    made = number(value, label, Random(seed))
    assert check(made)
    assert made.startswith(kept)
    assert made != value
    assert [c.isalnum() for c in made] == [c.isalnum() for c in value]


@pytest.mark.parametrize("value", ["192.168.1.10", "fe80::1a2b", "00:1A:2B:3C:4D:5E", "10.0.0.255"])
def test_addresses_of_machines(value):
    made = network_address(value, Random(1), {})
    assert len(made) == len(value)
    assert all(int(part) < 256 for part in made.split(".")) if "." in value else re.fullmatch("[0-9A-Fa-f:]+", made)


def test_an_address_on_the_web_keeps_what_everybody_shares():
    rng = Random(3)
    made = host("https://www.smith-clinic.org/user/ann?id=12", rng, {})
    assert re.fullmatch(r"https://www\.[a-z]{4,9}-[a-z]{4,9}\.org/[a-z]{4}/[a-z]{3}\?[a-z]{2}=\d\d", made)
    assert "smith" not in made
    assert host("gmail.com", rng, {}) == "gmail.com"
    made = host("https://ann:secret@x.org/", rng, {})
    assert re.fullmatch(r"https://[a-z]{3}:[a-z]{6}@[a-z]{4,9}\.org/", made)
    assert "secret" not in made


FORMATS = ["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%B %d, %Y", "%d %b %Y", "%Y%m%d", "%d of %B %Y", "%Y/%m/%d"]
READ = {"%d/%m/%Y": st.dates(date(1940, 1, 13), date(2030, 12, 31)).filter(lambda day: day.day > 12)}
DAYS = st.dates(date(1940, 1, 1), date(2030, 12, 31))


def bare(text):
    """Without a 0 before a figure, and with short months: May is both."""
    text = re.sub(r"\b0(?=\d\b)", "", text)
    return re.sub(r"[A-Z][a-z]+", lambda month: month[0][:3], text)


@given(st.integers(0, 1000), DAYS, DAYS, st.sampled_from(FORMATS), st.sampled_from(FORMATS))
def test_the_days_between_two_dates_stay(seed, first, second, one, other):
    rng = Random(seed)
    pairs = [(first, one), (second, other)]
    # Which figure is the day can be told of these only.
    if any(form == "%d/%m/%Y" and day.day <= 12 for day, form in pairs):
        return
    move = draw_move([day.strftime(form) for day, form in pairs], (1950, 2025), rng)
    assert 1950 <= (max(first, second) + move).year <= 2025
    made = [moved(day.strftime(form), move, rng) for day, form in pairs]
    again = [day + timedelta(days=move.days) for day, _ in pairs]
    for text, day, (before, form) in zip(made, again, pairs, strict=True):
        # As many figures as before, where a 0 stood or could not.
        assert bare(text) == bare(day.strftime(form)), (before, form)


@pytest.mark.parametrize(
    ("value", "made"),
    [
        ("1980-03-12", "1980-06-20"),
        ("12.3.1980", "20.6.1980"),
        ("3/14/80", "6/22/80"),
        ("MARCH 5th, 1980", "JUNE 13th, 1980"),
        ("5 Mar 1980", "13 Jun 1980"),
        ("march 5", "june 13"),
        ("2024-05-01 23:59:58", "2024-08-10 03:59:58"),
        ("2024-05-01T08:05", "2024-08-09T12:05"),
    ],
)
def test_a_date_is_written_as_it_was(value, made):
    assert moved(value, timedelta(days=100, hours=4), Random(0)) == made


@pytest.mark.parametrize("value", ["10:30", "31.2.1999", "99/99/9999", "the 5th", "1980年3月5日", "0000-00-00"])
def test_figures_that_are_no_date_are_replaced_all_the_same(value):
    made = moved(value, timedelta(days=100), Random(1))
    assert re.sub(r"\d", "9", made).replace("99", "9") == re.sub(r"\d", "9", value).replace("99", "9")
    assert made != value or not re.search(r"\d", value)


@given(DAYS, DAYS, st.sampled_from([form for form in FORMATS if "%d/" not in form]), st.integers(0, 100))
def test_what_a_date_becomes_says_nothing_of_it(first, second, form, row):
    def made(day):
        text = f"born {day.strftime(form)}"
        return Surrogates(seed=3).replace(text, [{"start": 5, "end": len(text), "label": "DATE"}], row).text

    # But for a date that becomes itself by chance, which is no surrogate.
    if all(made(day) != f"born {day.strftime(form)}" for day in (first, second)):
        assert bare(made(first)) == bare(made(second))


HOSTS = st.from_regex(r"[a-z]{3,9}-[a-z]{3,9}", fullmatch=True)


@given(
    st.one_of(
        st.tuples(st.sampled_from(["ID_NUMBER", "PHONE_NUMBER"]), *[st.from_regex(r"[0-9]{8}", fullmatch=True)] * 2),
        st.tuples(st.just("PHONE_NUMBER"), *[st.from_regex(r"[0-9]{10}", fullmatch=True)] * 2),
        st.tuples(st.just("DOMAIN_NAME"), *[HOSTS.map("https://{}.com/61".format)] * 2),
        st.tuples(st.just("EMAIL_ADDRESS"), *[HOSTS.map("{}@gmail.com".format)] * 2),
    ),
    st.integers(0, 100),
)
def test_many_surrogates_together_say_no_more_than_one(values, row):
    """Nothing of the value has a say in what is drawn: another one has the same surrogates."""
    label, *both = values

    def made(value):
        return Surrogates(seed=7).replace(value, [{"start": 0, "end": len(value), "label": label}], row).text

    first, second = map(made, both)
    if first not in both and second not in both:
        assert first == second


def test_a_mean_over_copies_tells_nothing():
    def mean(value):
        made = [
            int(Surrogates(seed=1).replace(value, [{"start": 0, "end": len(value), "label": "DATE"}], row).text[:4])
            for row in range(600)
        ]
        assert min(made) < 1955
        assert max(made) > 2020
        return sum(made) / len(made)

    assert abs(mean("1951-02-03") - mean("2019-04-05")) < 0.5
    assert abs(mean("1951") - mean("2019")) < 0.5


def test_dates_without_a_year_and_lone_years_move_along():
    text = "seen March 5, 2019; born in 1961, again on March 7; since 2019"
    values = ["March 5, 2019", "1961", "March 7", "2019"]
    spans, place = [], 0
    for value in values:
        place = text.index(value, place)
        spans.append({"start": place, "end": place + len(value), "label": "DATE"})
        place += len(value)
    for row in range(50):
        made = Surrogates(years=(2000, 2001)).replace(text, spans, row)
        first, born, _, since = (made.text[s["start"] : s["end"]] for s in made.spans)
        # The middle of 2019 is the latest day of this record.
        assert 2000 <= int(since) <= 2001
        assert 57 <= int(since) - int(born) <= 59
        assert int(since) - 1 <= int(first[-4:]) <= int(since)


def test_years_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"years=\(2025, 2015\) must be a first and a last one"):
        Surrogates(years=(2025, 2015))


def test_parts_of_a_name_have_one_surrogate():
    people = People("en_US", Random(5), lambda name: False)
    whole = people.name("Dr. Ann-Marie van der Smith")
    first, second, last = re.fullmatch(r"Dr\. ([\w']+)-([\w']+) van der ([\w']+)", whole).groups()
    assert people.name("Ms Smith") == f"Ms {last}"
    assert people.name("SMITH") == last.upper()
    assert people.name("ann") == first.lower()
    assert people.name("A. Smith") == f"{first[0]}. {last}"
    assert people.known("marie") == second
    assert people.known("Bob") is None
    assert {"Ann", "Marie", "Smith"}.isdisjoint(whole.replace("-", " ").split())


@pytest.mark.parametrize(
    ("name", "script"), [("張伟", "CJK"), ("דנה כהן", "HEBREW"), ("Иван Петров", "CYRILLIC"), ("علي حسن", "ARABIC")]
)
def test_names_in_other_writing(name, script):
    made = People("en_US", Random(2), lambda name: False).name(name)
    assert made != name
    assert unicodedata.name(made[0]).startswith(script)


@pytest.mark.parametrize("value", ["1987-03-14", "14.03.1987", "3/14/1987"])
def test_a_date_is_moved_whatever_it_was_taken_for(value):
    text = f"card {value}, that is {value}"
    spans = [{"start": s, "end": s + len(value), "label": "ID_NUMBER"} for s in (5, text.rindex(value))]
    for row in range(20):
        made = Surrogates(seed=1).replace(text, spans, row)
        new = made.text[5:].split(",")[0]
        assert is_date(new)
        assert new != value
        assert made.text.count(new) == 2
    assert not is_date("4711-47-11")
    assert not is_date("12/34/5678")


@pytest.mark.parametrize(
    ("address", "kept", "gone"),
    [
        ("322 Khan Mews Allisonville, ME 20072", {"Mews"}, {"322", "Khan", "Allisonville", "20072"}),
        ("2241 Fitzgerald Viaduct Brownview, OK 28304", {"Viaduct"}, {"Fitzgerald", "Brownview"}),
        # In the place of a name it is one.
        ("12 Forest Road, Brooks, TX 75001", {"Road"}, {"Forest", "Brooks"}),
        ("5 Lake Forest Drive", {"Lake", "Drive"}, {"Forest"}),
        ("PSC 0919, Box 8835 APO AA 38446", {"PSC", "Box", "APO"}, {"0919", "8835", "38446"}),
        ("USNS Dalton FPO AP 18066", {"USNS", "FPO"}, {"Dalton", "18066"}),
    ],
)
def test_of_an_address_the_words_that_tell_nothing_stay(address, kept, gone):
    for row in range(20):
        spans = [{"start": 0, "end": len(address), "label": "ADDRESS"}]
        made = re.findall(r"\w+", Surrogates(seed=0).replace(address, spans, row).text)
        assert kept <= set(made)
        assert not gone & set(made)
        assert len(made) == len(re.findall(r"\w+", address))
