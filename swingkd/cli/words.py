"""The library's advice in the words of the command line: it speaks of arguments, and here there are options.

The errors of the library name a setting as `name=value`, or by its bare name, and show now and then a call of Python.
Each command tells which names are options of its own; fields of the configuration are given with --set; a call is left
out, with the words that led to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: What a command calls arguments of the library, where it is not the name with dashes.
OPTIONS: dict[str, dict[str, str]] = {
    "distill": {
        "dataset_text_field": "--text-column",
        "eval_dataset": "--eval-data",
        "hub_model_id": "--push-to",
        "model": "--student",
        "output_dir": "--output-dir",
        "protection": "--protection",
        "public_model": "--public-model",
        "resume_from_checkpoint": "--resume",
        "tagger": "--tagger",
        "task": "--task",
        "teacher_model": "--teacher",
        "teacher_processing_class": "--teacher-tokenizer",
        "train_dataset": "--data",
    },
    "cache-teacher": {
        "dataset_text_field": "--text-column",
        "model": "--teacher-model",
        "output_dir": "--output-dir",
        "private_dataset": "--private-data",
        "protect": "--protect",
        "protection": "--protect",
        "public_model": "--public-model",
        "tagger": "--tagger",
        "teacher_model": "--teacher",
        "top_k": "--top-k",
    },
    "audit": {
        "attacks": "--attack",
        "candidates": "--candidates",
        "members": "--members",
        "nonmembers": "--nonmembers",
        "prefix_tokens": "--prefix-tokens",
        "private_text": "--pii",
        "references": "--reference",
        "samples": "--samples",
        "suffix_tokens": "--suffix-tokens",
        "text_column": "--text-column",
        "unseen_text": "--unseen",
    },
    "canaries": {
        "count": "--count",
        "kind": "--kind",
        "length": "--length",
        "repetitions": "--repetitions",
        "text_column": "--text-column",
    },
    "budget": {
        "accountant": "--accountant",
        "batch": "--batch",
        "delta": "--delta",
        "epochs": "--epochs",
        "epsilon": "--epsilon",
        "noise_multiplier": "--noise",
        "unit": "--unit",
    },
    "federate": {"engine": "--engine", "method": "--method", "output_dir": "--output-dir", "seed": "--seed"},
    "tag": {"tagger": "--model", "text_column": "--text-column"},
}
# Whole phrases, where a name alone would not do.
_PHRASES = (
    (r"tagger=None with protection='none'|tagger=None, protection='none'", "--plain"),
    (r"tagger=RuleTagger\(\), or protection='none'", "--plain"),
    (r"protection='none'", "--plain"),
    (r"(?<=[Pp]ass )tagger=None", "no --tagger"),
    (r"teacher_model=None", "no --teacher"),
    (r"without resume_from_checkpoint", "without --resume"),
    (r"[Pp]ass the (student|teacher|other)'s own as teacher_processing_class", r"name the \1's own tokenizer"),
    (r"the (\w+)'s as processing_class", r"the \1's"),
    (r" \(swingkd cache-teacher\)", " that swingkd cache-teacher wrote"),
)
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|\.\.\.|<[^>]*>|\{[^{}]*\}|\[[^\]]*\]|[^\s,;:()]+?(?=[.]?(?:[\s,;:()]|$)))"
_ASSIGNED = re.compile(rf"(?<![\w.(-])([a-z][a-z_0-9]*)=({_VALUE})")
_BARE = re.compile(r"(?<![\w/.='\"-])(?<!--set )[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w='\"./(-])")
_CALL = re.compile(r"(?:[,:]| \()?(?: (?:or|such as|for example|for instance|with|call|by|as))* ?\b[A-Za-z_][\w.]*\(")
# The library's own commands and words that look like calls and are none.
_NO_CALL = re.compile(r"(?:^|[\s(])[a-z]+\($")


def in_words(text: str, command: str, fields: Mapping[str, object] = {}) -> str:  # never written to
    """Return an error or a warning in the words of a command.

    Args:
        text: as the library says it.
        command: which one it is read by.
        fields: of a configuration that --set changes, where the command has one.
    """
    own = OPTIONS.get(command, {})
    for phrase, words in _PHRASES:
        text = re.sub(phrase, words, text)
    text = without_calls(text)

    def assigned(match: re.Match) -> str:
        name, value = match[1], match[2]
        if name not in own:
            return f"--set {name}={_yaml(value)}" if name in fields else match[0]
        if value == "True" or value == "..." or value.startswith("<"):
            return own[name]
        return f"no {own[name]}" if value in ("None", "False") else f"{own[name]} {_yaml(value)}"

    def bare(match: re.Match) -> str:
        return own.get(match[0]) or (f"--set {match[0]}" if match[0] in fields else match[0])

    text = _BARE.sub(bare, _ASSIGNED.sub(assigned, text))
    return re.sub(r"\b([Ss])et (?=--)", lambda match: "Give " if match[1] == "S" else "give ", text)


def _yaml(value: str) -> str:
    plain = value.strip("'\"")
    return {"True": "true", "False": "false", "None": "null"}.get(plain, plain)


def without_calls(text: str) -> str:
    """Leave out calls of Python, with the words that led to them.

    >>> without_calls("Drop such rows, such as dataset.filter(lambda row: row['x'] is not None).")
    'Drop such rows.'
    """
    start = 0
    while match := _CALL.search(text, start):
        opened = match.end() - 1
        if "." not in match[0] and not re.search(r"[A-Z_]\w*\($", match[0]):
            start = match.end()  # a word before a bracket
            continue
        depth, end = 0, opened
        for end in range(opened, len(text)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if not depth:
                break
        closed = text[end + 1 :]
        if match[0].startswith(" (") and closed.startswith(")"):
            closed = closed[1:]
        text, start = text[: match.start()] + closed, match.start()
    return text
