"""The library's advice in the words of the command line: it speaks of arguments, and here there are options.

The errors of the library name a setting as `name=value`, or by its bare name, and show now and then a call of Python.
Each command tells which names are options of its own; fields of the configuration are given with --set; a call is left
out, with the words that led to it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

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
    "crossfit": {
        "dataset_text_field": "--text-column",
        "group_by": "--group-by",
        "held_out": "--held-out",
        "k": "--k",
        "near_duplicates": "--near-duplicates",
        "output_dir": "--output-dir",
        "tagger": "--tagger",
    },
    "sample": {
        "bound": "--bound",
        "count": "--count",
        "prompts": "--prompts",
        "temperature": "--temperature",
        "top_p": "--top-p",
    },
    "serve": {
        "batch_tokens": "--batch-tokens",
        "budget": "--budget",
        "max_length": "--max-length",
        "public_model": "--public-model",
        "rate": "--rate",
        "top_k": "--top-k",
    },
    "audit": {
        "attacks": "--attack",
        "candidates": "--candidates",
        "limit": "--limit",
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
        "asked": "--asked",
        "changed": "--changed",
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
    "federate": {"engine": "--engine", "method": "--method", "output_dir": "--output-dir"},
    "tag": {"tagger": "--tagger", "text_column": "--text-column"},
}
# Whole phrases, where a name alone would not do.
_PHRASES = (
    (r"tagger=None with protection='none'|tagger=None, protection='none'", "--plain"),
    (r"tagger=RuleTagger\(\), or protection='none'", "--plain"),
    (r"(?<=[Pp]ass )tagger=None", "no --tagger"),
    (r"teacher_model=None", "no --teacher"),
    (r"without resume_from_checkpoint", "without --resume"),
    (r"[Pp]ass the (student|teacher|other)'s own as teacher_processing_class", r"name the \1's own tokenizer"),
    (r"the (\w+)'s as processing_class", r"the \1's"),
    (r"data in which its targets are cached \(swingkd cache-teacher\)", "--data that swingkd cache-teacher wrote"),
    (r"set dataset_text_field to another column", "another column: --text-column NAME"),
    (
        r"[Ss]et dataset_text_field, to two columns for sentence pairs,",
        "Give --text-column (two for sentence pairs: a,b),",
    ),
    (r"[Ss]et dataset_label_field to the column with the labels", "Give --set dataset_label_field=NAME"),
    (
        r"[Ll]oad (?:it|the model) with dtype=torch\.float32(?:, as happens where it is passed by its name)?",
        "Leave dtype out of model_init_kwargs",
    ),
    (r"with num_labels=(\d+)", r"with --set 'model_init_kwargs={num_labels: \1}'"),
    (r", tie_word_embeddings=False", ""),
    (r" \(use_reentrant=True is needed\)", ""),
    (r"Pass outside=.*$", "Choose a model whose label for what is not private is O."),
    (r"rows_per_step=", "rows of a step="),
    (r"[Ll]eave protection unset", "Leave out --protection"),
    (r"cache more with top_k", "cache more with swingkd cache-teacher --top-k"),
    (r" To tag anew, call .* first\.", " To tag anew, let HF_DATASETS_CACHE be an empty folder."),
    (r": write \(likelihood .*$", ": write the likelihood times 255, rounded."),
    (r"the file that CanarySet\.save wrote", "the canaries.json that swingkd canaries wrote"),
    (r", or, in a plan of your own, accountant='rdp'", ""),
)
# More than one name for one thing, where a command has no --plain or names it otherwise.
_OF_COMMANDS: dict[str, tuple[tuple[str, str], ...]] = {
    "distill": ((r"(?<!target_)\bdelta=", "target_delta="), (r"protection='none'", "--plain")),
    "audit": (
        (r"no (members|nonmembers)\b", r"no --\1"),
        (r"[Gg]ive members and nonmembers", "Give --members and --nonmembers"),
        (r"References are", "--reference is"),
        (r", their spans, another tagger,", ", their spans,"),
        (r" or another tagger", ""),
        (r"'text' is needed", "'text' is needed (another column: --text-column)"),
        (r"(?<=attacks )('\w+'(?: and '\w+')?)", r"(--attack) \1"),
    ),
    "crossfit": (
        (r"(?:[Pp]ass )near_duplicates=False", "Give --no-near-duplicates"),
        (r"(?<=leave out )near_duplicates", "--near-duplicates"),
        (r"[Rr]aise similarity, Give", "Give"),
        (r"[Ll]eave folds out to go on", "Run the same command with --resume"),
    ),
    "budget": ((r"either epsilon or", "either --epsilon or"),),
    "canaries": ((r"\bcount=", "--count "), (r"[Ll]ower count", "Lower --count")),
}
# Not the library's words: paths, and what stands in quotes or brackets, but for the value of a setting.
_ANOTHERS = r"(?<![\w=\uE000-\uF8FF])(?:'[^']*'|\[[^\]]*\])|[^\s'\"=]*/[^\s'\"]*"
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|\.\.\.|<[^>]*>|\{[^{}]*\}|\[[^\]]*\]|[^\s,;:()]+?(?=[.]?(?:[\s,;:()]|$)))"
_ASSIGNED = re.compile(rf"(?<![\w.'-])(?<!\w\()(?<!--set )([a-z][a-z_0-9]*)=({_VALUE})")
_BARE = re.compile(r"(?<![\w/.='\"-])(?<!--set )[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w='\"/(-]|\.\w)")
_CALL = re.compile(r"(?:[,:]| \()?(?: (?:or|such as|for example|for instance|with|call|by|as))* ?\b[A-Za-z_][\w.]*\(")
# The library's own commands and words that look like calls and are none.
_NO_CALL = re.compile(r"(?:^|[\s(])[a-z]+\($")


def in_words(text: str, command: str, fields: Collection[str] = (), given: Sequence[str] = ()) -> str:
    """Return an error or a warning in the words of a command.

    Args:
        text: as the library says it.
        command: which one it is read by.
        fields: of a configuration that --set changes, where the command has one.
        given: the words of the command line, which stand in a message as they are.
    """
    own = OPTIONS.get(command, {})
    text, kept = _set_aside(text, given)
    for phrase, words in (*_PHRASES, *_OF_COMMANDS.get(command, ())):
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
    text = re.sub(r"\b([Ss])et (?=--)", lambda match: "Give " if match[1] == "S" else "give ", text)
    # The latest first: a path may hold a word that was set aside before it.
    for sign, words in reversed(kept.items()):
        text = text.replace(sign, words)
    return text


def _set_aside(text: str, given: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Put signs in the place of a user's own words: paths, what stands in quotes or brackets, and the command line."""
    kept: dict[str, str] = {}

    def aside(match: re.Match) -> str:
        sign = chr(0xE000 + len(kept))
        kept[sign] = match[0]
        return sign

    longest = sorted((word for word in given if len(word) > 2 and "=" not in word), key=len, reverse=True)
    own = "|".join(map(re.escape, longest))
    for pattern in (rf"(?<![\w='\"])(?:{own})(?![\w='\"])" if own else None, _ANOTHERS):
        text = re.sub(pattern, aside, text) if pattern else text
    return text, kept


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
