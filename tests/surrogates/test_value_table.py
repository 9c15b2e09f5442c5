"""The noised table of values: its sensitivity, its noise, and that surrogates are a function of nothing else."""

import math
import re
import string
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swingkd.audit.lower_bound import epsilon_lower_bound
from swingkd.privacy.gaussian import gdp_mu
from swingkd.surrogates import SENSITIVITY, Surrogates, ValueTable
from swingkd.surrogates.drawn_record import DrawnRecord
from swingkd.surrogates.names import pools
from swingkd.surrogates.template import template_of
from swingkd.surrogates.value_table import _Domain

LABELS = ("", "PERSON", "PHONE_NUMBER", "DATE_TIME", "EMAIL_ADDRESS", "ADDRESS")
EMPTY = ValueTable.measured([], LABELS, "en_US", 1.0)
values = st.lists(
    st.tuples(
        st.one_of(
            st.text(max_size=30),
            st.from_regex(r"\\d{3}-\\d{4}", fullmatch=True),
            st.sampled_from(
                ["Mary Smith", "Dr. Jones", "12 March 1987", "1999-02-03", "ann@mail.org", "Lake Street 5"]
            ),
        ),
        st.sampled_from([*LABELS, "SOMETHING_ELSE"]),
    ),
    max_size=12,
)


@given(values, values)
@settings(max_examples=200)
def test_changing_the_values_of_one_unit_moves_the_table_by_no_more_than_the_sensitivity(before, after):
    domain = _Domain.of(LABELS, "en_US")
    table = np.zeros((2, domain.size))
    for side, own in zip(table, (before, after), strict=True):
        at, weights = domain.contribution(own)
        assert len(set(at)) == len(at)
        np.add.at(side, at, weights)
        assert np.linalg.norm(side) <= 1 + 1e-9
        assert (side >= 0).all()
    assert np.linalg.norm(table[0] - table[1]) <= SENSITIVITY + 1e-9


def test_every_cell_is_noised():
    empty = ValueTable.measured([], LABELS, "en_US", 2.0)
    assert empty.noise == pytest.approx(2 * math.sqrt(2))
    assert (empty.cells != 0).all()
    assert empty.cells.std() == pytest.approx(empty.noise, rel=0.05)
    # Not from a seed.
    assert not np.array_equal(empty.cells, ValueTable.measured([], LABELS, "en_US", 2.0).cells)
    for noise in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="noise_multiplier"):
            ValueTable.measured([], LABELS, "en_US", noise)


def test_no_attack_proves_more_than_was_promised():
    """The best guess which of two values one person has, from the table and from all that is drawn from it."""
    epsilon, delta = 1.0, 1e-5
    multiplier = 1 / gdp_mu(epsilon, delta)
    others = [[(f"555-{i:04d}", "PHONE_NUMBER")] for i in range(40)]
    worlds = ([("999-9999", "PHONE_NUMBER")], [("000-0000", "PHONE_NUMBER")])
    domain = _Domain.of(LABELS, "en_US")
    direction = np.zeros(domain.size)
    for sign, own in zip((1, -1), worlds, strict=True):
        at, weights = domain.contribution(own)
        direction[at] += sign * weights
    scores = [
        np.array(
            [direction @ ValueTable.measured([*others, own], LABELS, "en_US", multiplier).cells for _ in range(150)]
        )
        for own in worlds
    ]
    # The attack is the most powerful one: two Gaussians, mu apart in units of their deviation.
    apart = (scores[0].mean() - scores[1].mean()) / np.concatenate([s - s.mean() for s in scores]).std()
    assert apart == pytest.approx(gdp_mu(epsilon, delta), abs=0.35)
    bound = epsilon_lower_bound(*scores, delta=delta, method="clopper_pearson")
    assert bound.epsilon < epsilon


TOKENS = st.sampled_from(
    "03 13 3 1987 2004 28 30 555 0199 4711 SW1A 12 May Jun March December Lake Moon North Street St CA QZ Ann Lee Van "
    "van Don Le A B Al Dr Mr jr smith gmail mail com org www https 11 45 46 0 5 北 鿀 王 Йозеф Анна \u0660 \u0665 नेहा "
    "Christmas Tuesday Copenhagen of the th rd T Z 00 2000 4111 1111".split()
)
SIGNS = st.sampled_from([" ", ", ", "-", "/", ".", "@", "://", ":", "'", "+", ""])
RECORDS = st.lists(
    st.tuples(
        st.lists(st.tuples(TOKENS, SIGNS), min_size=1, max_size=5).map(lambda parts: "".join(t + s for t, s in parts)),
        st.sampled_from([*LABELS, "IP_ADDRESS", "URL", "CITY", "ORG", "PATIENT_ID", "US_SSN", "CREDIT_CARD"]),
    ),
    min_size=1,
    max_size=5,
)


def another(record, rng):
    """Other values with the same templates, of which the same, and the same of their words, are equal."""
    known, taken = {}, set()

    def sign(character):
        template = template_of(character)
        if template == "0":
            return rng.choice("0123456789")
        if template in ("a", "A"):
            return rng.choice(string.ascii_lowercase if template == "a" else string.ascii_uppercase)
        alike = {"а": "абвгде", "А": "АБВГДЕ", "一": "一丁北王明鿀", "क": "कखगघनह"}  # noqa: RUF001
        return rng.choice(alike[template]) if template in alike else character

    def token(match):
        key = match[0].casefold()
        for _ in range(200):
            if key in known:
                break
            made = "".join(map(sign, match[0]))
            if made.casefold() not in taken and template_of(made) == template_of(match[0]):
                known[key] = made
                taken.add(made.casefold())
        made = known.get(key, match[0])
        # In the case in which it stands here.
        return "".join(m.upper() if o.isupper() else m.lower() for m, o in zip(made, match[0], strict=True))

    return [(re.sub(r"[^\W\d_]+|\d+", token, value), label) for value, label in record]


@given(RECORDS, st.integers(0, 2**32))
@settings(max_examples=600, deadline=None)
def test_surrogates_depend_on_templates_and_equality_alone(record, seed):
    other = another(record, Random(seed))
    assume(all(template_of(a) == template_of(b) for (a, _), (b, _) in zip(record, other, strict=True)))
    keys = [[re.sub(r"[\W_]+", "", value.casefold()) for value, _ in side] for side in (record, other)]
    assume(all((a == b) == (c == d) for a, c in zip(*keys, strict=True) for b, d in zip(*keys, strict=True)))
    made = []
    for side in (record, other):
        drawn = DrawnRecord(Random(3), EMPTY)
        drawn.read(side)
        made.append([drawn.surrogate(value, label) for value, label in side])
    assert made[0] == made[1]


def test_names_keep_their_equality_and_their_case():
    surrogates = Surrogates(key=b"0" * 16, table=EMPTY)
    text = "Mary Smith called. SMITH said 212-555-0199, yes 212-555-0199, or mary.smith@corp.example. Bye smith"
    parts = [("Mary Smith", "PERSON"), ("SMITH", "PERSON"), ("smith", "PERSON")]
    spans = [{"start": text.rindex(v), "end": text.rindex(v) + len(v), "label": label} for v, label in parts]
    for match in re.finditer("212-555-0199", text):
        spans.append({"start": match.start(), "end": match.end(), "label": "PHONE_NUMBER"})
    mail = "mary.smith@corp.example"
    spans.append({"start": text.index(mail), "end": text.index(mail) + len(mail), "label": "EMAIL_ADDRESS"})
    made = surrogates.replace(text, spans, 5).text
    first, last = made.split(" called")[0].split()
    assert f". {last.upper()} said" in made
    assert made.endswith(f"Bye {last.lower()}")
    phones = re.findall(r"\d{3}-\d{3}-\d{4}", made)
    assert len(phones) == 2
    assert len(set(phones)) == 1
    assert f"{first.lower()}.{last.lower()}@" in made
    assert not re.search("mary|smith|0199|corp", made, re.IGNORECASE)


def test_what_is_drawn_looks_like_what_was_counted():
    rng = Random(1)
    people = [rng.choice(pools("en_US").first[:3]) for _ in range(3000)]
    units = [[(f"{name} Miller", "PERSON"), (f"77{rng.randrange(100):02d}", "PHONE_NUMBER")] for name in people]
    table = ValueTable.measured(units, LABELS, "en_US", 3.0)
    surrogates = Surrogates(key=b"1" * 16, table=table)
    phones, names = [], []
    for row in range(200):
        text = "Zed Quint 1234"
        spans = [{"start": 0, "end": 9, "label": "PERSON"}, {"start": 10, "end": 14, "label": "PHONE_NUMBER"}]
        made = surrogates.replace(text, spans, row).text
        phones.append(made[-4:])
        names.append(made.split()[0])
    assert np.mean([phone[:2] == "77" for phone in phones]) > 0.9
    assert len({phone[2:] for phone in phones}) > 50
    assert np.mean([name in set(people) for name in names]) > 0.6


def test_a_table_is_kept_whole(tmp_path):
    table = ValueTable.measured([[("1999-01-01", "DATE_TIME")]], LABELS, "de_DE", 1.5)
    table.save(tmp_path / "table.safetensors")
    again = ValueTable.load(tmp_path / "table.safetensors")
    assert (again.labels, again.locale, again.noise) == (LABELS, "de_DE", table.noise)
    assert np.array_equal(again.cells, table.cells)
    with pytest.raises(ValueError, match="cells"):
        ValueTable(LABELS, "en_US", table.cells[:-1], 1.0)


@given(st.text(max_size=40), st.sampled_from(LABELS))
@settings(max_examples=100)
def test_any_value_has_a_surrogate_of_its_shape(value, label):
    table = EMPTY
    made = Surrogates(key=b"2" * 16, table=table).replace(
        value, [{"start": 0, "end": len(value), "label": label}] if value else []
    )
    assert isinstance(made.text, str)
