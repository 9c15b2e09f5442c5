"""The text of an experiment, as its rows ask for it."""

from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from swingkd.experiments.corpus import prompted, read_by
from swingkd.tagging import RuleTagger


@given(st.lists(st.text("ab c.", min_size=1), min_size=1, max_size=5), st.integers(1, 4))
def test_a_prompt_and_what_follows_it_are_the_text(lines, count):
    text = "\n".join(lines)
    (row,) = prompted(Dataset.from_dict({"text": [text]}), count)
    assert row["prompt"] + row["completion"] == text
    assert row["completion"]
    assert row["prompt"].count("\n") == min(count, len(text.splitlines()) - 1)


def test_a_row_asks_for_prompts():
    data = Dataset.from_dict({"text": ["SYS: hello\nUSR: my pin is 4711\nSYS: thank you", "one line"]})
    text, tagger = read_by({"model": "kd", "prompt_lines": 2, "untagged": True}, data, RuleTagger())
    assert tagger is None
    assert list(text) == [
        {"prompt": "SYS: hello\nUSR: my pin is 4711\n", "completion": "SYS: thank you"},
        {"prompt": "", "completion": "one line"},
    ]
