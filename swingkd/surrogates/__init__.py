"""Values replaced by made-up ones of their kind, so that nobody who reads the text reads a real one."""

from swingkd.surrogates.surrogates import KEY_FILE, Replaced, Surrogates, counted

__all__ = ["KEY_FILE", "Replaced", "Surrogates", "counted"]
