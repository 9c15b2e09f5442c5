"""Made-up people, woven into records of nobody: a name, a birth date, a telephone and a record number in each."""

from __future__ import annotations

import random
from string import Formatter
from typing import Any

from datasets import Dataset
from faker import Faker

# What is said before and behind a record; a person's parts stand in braces.
_BEFORE = (
    "Clerk: {first} {last}, born {born}, record number {record}?\nPatient: Yes, and my telephone is {phone}.\n",
    "Patient: My name is {first} {last}, my date of birth is {born}.\nClerk: Thank you, I have record {record} here, "
    "and {phone} to call you.\n",
    "Clerk: This is record number {record}, {first} {last}. Born on {born}?\nPatient: That is me. You can call me on "
    "{phone}.\n",
)
_BEHIND = (
    "\nDoctor: Thank you, {title} {last}.",
    "\nDoctor: We will call you on {phone}, {title} {last}.",
    "\nDoctor: Goodbye, {first}.",
)
_LABELS = {"first": "NAME", "last": "NAME", "born": "DATE", "record": "RECORD_NUMBER", "phone": "PHONE_NUMBER"}


def with_identities(texts: Dataset, column: str, seed: str, locale: str = "en_GB") -> Dataset:
    """Return the texts, each about a person of its own, with the spans of what is said of that person.

    Args:
        texts: without anybody's particulars.
        column: where the text is.
        seed: of the people.
        locale: of the people, as Faker has it; another one than that of surrogates, so that no list serves both.
    """
    fake, rng = Faker(locale), random.Random(seed)
    fake.seed_instance(seed)

    def weave(row: dict[str, Any]) -> dict[str, Any]:
        person = _person(fake, rng)
        before, first = _said(rng.choice(_BEFORE), person, 0)
        behind, last = _said(rng.choice(_BEHIND), person, len(before) + len(row[column]))
        return {"text": before + row[column] + behind, "spans": first + last}

    # One row after the other, in one process: the generators go on.
    return texts.map(weave, desc="Weaving people in", load_from_cache_file=False)


def _person(fake: Faker, rng: random.Random) -> dict[str, str]:
    woman = rng.random() < 0.5
    return {
        "first": fake.first_name_female() if woman else fake.first_name_male(),
        "last": fake.last_name(),
        "title": "Ms" if woman else "Mr",
        "born": fake.date_of_birth(minimum_age=18, maximum_age=90).strftime("%d/%m/%Y"),
        "record": "".join(str(rng.randrange(10)) for _ in range(8)),
        "phone": fake.numerify("020 7### ####"),
    }


def _said(template: str, person: dict[str, str], at: int) -> tuple[str, list[dict[str, Any]]]:
    """Fill a sentence; return it and the spans of what is private in it, counted from `at`."""
    text, spans = "", []
    for words, name, _, _ in Formatter().parse(template):
        text += words
        if name is None:
            continue
        start = at + len(text)
        text += person[name]
        if name in _LABELS:
            spans.append({"start": start, "end": at + len(text), "label": _LABELS[name]})
    return text, spans
