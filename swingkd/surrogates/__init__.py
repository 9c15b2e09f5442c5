"""Values replaced by made-up ones of their kind, so that nobody who reads the text reads a real one."""

from swingkd.surrogates.surrogates import KEY_FILE, Replaced, Surrogates, counted, values_of
from swingkd.surrogates.value_table import SENSITIVITY, ValueTable

__all__ = ["KEY_FILE", "SENSITIVITY", "Replaced", "Surrogates", "ValueTable", "counted", "values_of"]
