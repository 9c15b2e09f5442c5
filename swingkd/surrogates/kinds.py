"""What a label stands for, by the words in it: names that rules, Presidio and annotated data have for a value."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["person", "date", "mail", "host", "machine", "phone", "street", "company", "city", "shape"]

# In this order; a word counts whole: PERSONAL_ID is no person, PHARMACY no machine.
_WORDS: dict[Kind, str] = {
    "mail": "EMAIL EMAILS MAIL CORREO",
    "phone": "PHONE PHONES TELEPHONE TEL FAX MOBILE CELL TELEFONO",
    "machine": "IP IPV4 IPV6 MAC",
    "host": "URL URI URLS DOMAIN HOST HOSTNAME WEBSITE WEB",
    "shape": "ID IDS NUMBER NUM NO NR NUMERO CODE KEY AGE ZIP POSTCODE POSTAL USER USERNAME LOGIN PASSWORD SECRET "
    "ACCOUNT LICENSE LICENCE PLATE FILE TITLE EDAD SSN CARD CURRENCY QUANTITY",
    "date": "DATE DATES DATETIME DOB BIRTHDAY BIRTHDATE TIME FECHA FECHAS",
    "company": "ORG ORGS ORGANIZATION ORGANISATION COMPANY HOSPITAL INSTITUTION INSTITUCION",
    "street": "STREET ADDRESS ADDRESSES CALLE",
    "city": "LOC LOCATION LOCATIONS GPE CITY PLACE TOWN BIRTHPLACE TERRITORIO COUNTRY",
    "person": "PERSON PERSONS PER NAME NAMES FIRSTNAME LASTNAME SURNAME GIVENNAME FULLNAME NOMBRE PATIENT DOCTOR "
    "STAFF",
}
_KINDS = {kind: frozenset(words.split()) for kind, words in _WORDS.items()}


@lru_cache(maxsize=1024)
def kind_of(label: str) -> Kind:
    """Return what a label stands for; "shape" where nothing more is known than what values of it look like."""
    words = set(re.findall(r"[A-Z]+[0-9]*", label.upper()))
    return next((kind for kind, names in _KINDS.items() if words & names), "shape")
