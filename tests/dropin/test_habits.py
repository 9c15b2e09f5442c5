"""What Trainer and TRL accept is accepted with the same meaning, or refused in a sentence: every row of the table."""

import re
from pathlib import Path

import pytest

from tests.dropin.habits import HABITS, Bench

PAGE = Path(__file__).parents[2] / "docs" / "drop_in.md"


@pytest.fixture
def bench(tokenizer, config, tmp_path):
    return Bench(tokenizer, config, tmp_path)


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: re.sub(r"[^\w]+", "-", habit.name)[:60])
def test_habit(habit, bench):
    habit.check(bench)


def test_the_table_of_the_docs_is_this_one():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| habit")]
    expected = [
        f"| {habit.name} | {habit.theirs} | {habit.ours}{': ' + habit.about if habit.about else ''} |"
        for habit in HABITS
    ]
    assert [row for row in rows if row in expected] == expected
    assert len(HABITS) >= 60
    assert len({habit.name for habit in HABITS}) == len(HABITS)
