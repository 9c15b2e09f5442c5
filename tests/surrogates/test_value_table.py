"""The noised table of values: its sensitivity, its noise, and that surrogates are a function of nothing else."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swingkd.audit.lower_bound import epsilon_lower_bound
from swingkd.privacy.gaussian import gdp_mu
from swingkd.surrogates import SENSITIVITY, Surrogates, ValueTable
from swingkd.surrogates.names import pools
from swingkd.surrogates.value_table import _Domain

LABELS = ("", "PERSON", "PHONE_NUMBER", "DATE_TIME", "EMAIL_ADDRESS", "ADDRESS")
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


def test_surrogates_depend_on_the_table_alone():
    """Other values of the same kinds, shapes and places, the same table: the same text."""
    table = ValueTable.measured([[("555-0199", "PHONE_NUMBER")]], LABELS, "en_US", 1.0)
    surrogates = Surrogates(key=b"0" * 16, table=table)
    one = "Mary Smith of 12 Lake Street rang 212-555-0199 on 03/04/1987, or mary.smith@gmail.com. Smith, 212-555-0199!"
    two = "Jill Brown of 98 Lake Street rang 987-333-2468 on 11/12/2004, or jill.brown@qmail.com. Brown, 987-333-2468!"
    made = []
    for text in (one, two):
        name = text.split(" of ")[0]
        parts = [
            (name, "PERSON"),
            (text.split(" of ")[1].split(" rang")[0], "ADDRESS"),
            (text.split("rang ")[1][:12], "PHONE_NUMBER"),
            (text.split(" on ")[1][:10], "DATE_TIME"),
            (text.split(" or ")[1].split(". ")[0], "EMAIL_ADDRESS"),
        ]
        spans = [{"start": text.index(v), "end": text.index(v) + len(v), "label": label} for v, label in parts]
        again = [(name.split()[1] + ",", "PERSON", -1), (parts[2][0] + "!", "PHONE_NUMBER", -1)]
        spans += [
            {"start": text.rindex(v), "end": text.rindex(v) + len(v) + cut, "label": label} for v, label, cut in again
        ]
        made.append(surrogates.replace(text, spans, 5).text)
    assert made[0] == made[1]
    assert not any(word in made[0] for word in ("Mary", "Smith", "0199", "1987"))


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
    assert np.mean([name in set(people) for name in names]) > 0.8


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


EMPTY = ValueTable.measured([], LABELS, "en_US", 1.0)
