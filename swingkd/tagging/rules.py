"""Rules: formats, checksums and context words, with a well-kept library wherever one exists.

    >>> tags = RuleTagger().tag(["Mail ann@example.org, my pin is 4711."])[0]
    >>> [int(tags.likelihood[i]) for i in (0, 5, 32)]
    [0, 1, 1]

Likelihoods are certainty that the *format* is the private one: 1 for a verified checksum, an unmistakable format or a
number beside a word such as "account"; less for what is often public (web addresses, dates, long bare numbers).
"""

from __future__ import annotations

from swingkd.tagging.base import BaseTagger, CharTags, empty_tags, paint
from swingkd.tagging.plain import plain
from swingkd.tagging.rule import Reading, Rule
from swingkd.tagging.rules_contacts import CONTACT_RULES, PHONE_RULE
from swingkd.tagging.rules_dates import DATE_RULES
from swingkd.tagging.rules_numbers import ID_RULES, NUMBER_RULES
from swingkd.tagging.rules_secrets import SECRET_RULES

#: Of two that are as sure of the same characters, the first has them.
DEFAULT_RULES: tuple[Rule, ...] = (*SECRET_RULES, *CONTACT_RULES, *NUMBER_RULES, PHONE_RULE, *DATE_RULES, *ID_RULES)


class RuleTagger(BaseTagger):
    """Find private text by its format: mail, web and network addresses, phone, card, account, national and id numbers,
    dates, keys and passwords.

    Args:
        rules: which rules to apply; default `DEFAULT_RULES`.  Add your own with `(*DEFAULT_RULES, Rule(...))`.

    Names and postal addresses have no format: combine with `TokenClassificationTagger` or `PresidioTagger` for those.
    """

    def __init__(self, rules: tuple[Rule, ...] = DEFAULT_RULES):
        self.rules = rules
        self.labels = ("", *dict.fromkeys(rule.label for rule in rules))

    def tag(self, texts: list[str]) -> list[CharTags]:
        """Tag each text: likelihood and label of every character."""
        return [self._tag_one(text) for text in texts]

    def _tag_one(self, text: str) -> CharTags:
        tags, read = empty_tags(text), Reading(plain(text))
        for rule in self.rules:
            label = self.labels.index(rule.label)
            for start, end, likelihood in rule.find(read):
                if rule.apart and (tags.likelihood[start:end] >= likelihood).any():
                    continue
                paint(tags, start, end, likelihood, label)
        return tags


__all__ = ["DEFAULT_RULES", "Rule", "RuleTagger"]
