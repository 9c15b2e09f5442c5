"""No error of the library speaks Python to whoever is on the command line."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import swingkd
from swingkd.cli.words import OPTIONS, in_words, without_calls
from swingkd.trainer.config import PrivateDistillationConfig

FIELDS = [field.name for field in dataclasses.fields(PrivateDistillationConfig)]
HOUSE = Path(swingkd.__file__).parent
# What a command reaches, and which one reads it.
READ_BY = {
    "data": "distill",
    "tasks": "distill",
    "trainer": "distill",
    "models": "distill",
    "targets": "distill",
    "audit": "audit",
    "privacy": "distill",
    "data/folds.py": "crossfit",
    "trainer/crossfit.py": "crossfit",
    "trainer/sampled.py": "sample",
    "trainer/teacher_cache.py": "cache-teacher",
    "trainer/server_cache.py": "cache-teacher",
    "models/teacher_server.py": "cache-teacher",
    "audit/canaries.py": "canaries",
    "privacy/budget.py": "budget",
    "privacy/plan.py": "budget",
    "privacy/settings.py": "budget",
}
# Said to a caller of Python only: a command makes these calls itself, or has no way to go wrong there.
PYTHON_ONLY = (
    "transform",  # files have none
    "The arguments stand as in Trainer",
    "model_init",
    "say what is promised",
    "describes another loss",
    "no meaning here",
    "with the splits",
    "dispatch_batches",
    "A data_collator of your own",
    "dataset_tags",
    "has no name to load its tokenizer",
    "Make it a data set of the datasets library",
    "compute_loss_func",
    "mlm=False",
    "compute_result",
    "whole_word_mask",
    "A stream can",
    "and pass tagger=None",
    "puts tokens of its own",
    "LoraConfig",
    "accelerate launch",
    "copy.deepcopy",
    "requires_grad_",
    "method=",
    "confidence=",
    "max_new_tokens=",
    "queries=",
    "inserted=",
    "ghost=False",
    "units=",
    "shares=",
    "accountant=",
    "releases=",
    "form=",
    "num_labels=",
    "opacus",
    "track_running_stats",
    "output_router_logits",
    "use_safetensors",
    "use_reentrant",
    "AutoModel",
    "ForCausalLM",
    "Gaussian noise has no epsilon",
    "epsilon=7 must be positive",
    "tie_word_embeddings",
    "processing_class",
    "list of words",
    "save_pretrained",
    "rows have no text (None",
    "(None)",
    "similarity=",
    "top_p=",
    "OutOfFoldTeacher",
    "Folds.add_to",
    "layers=",
)


def said() -> list[tuple[str, str]]:
    """Every text that is raised or warned of, with what is put into it as a 7, and the command that shows it."""
    found = []
    for path in sorted(HOUSE.rglob("*.py")):
        name = path.relative_to(HOUSE).as_posix()
        command = READ_BY.get(name) or READ_BY.get(name.split("/")[0])
        if command is None:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else node
            warned = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("warning", "warn")
            if (isinstance(node, ast.Raise) or warned) and isinstance(call, ast.Call) and call.args:
                found.append((command, text_of(call.args[0])))
    return [(command, text) for command, text in found if text]


def text_of(node) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "7" for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return ""


MARKS = re.compile(
    r"(?<!--set )(?<!['\w])\b[a-z]\w*=(?!\w*=)|\w\.\w+\(|\(\)|\blambda\b|\bNone\b(?! of)|\bTrue\b|\bFalse\b|\bdtype="
)


def test_no_error_speaks_python():
    texts = said()
    assert len(texts) > 200
    wrong = []
    for command, text in texts:
        words = in_words(text, command, FIELDS if command in ("distill", "cache-teacher") else ())
        if MARKS.search(words) and not any(part in text for part in PYTHON_ONLY) and "7=7" not in text:
            wrong.append(f"[{command}] {words}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("command", "text", "words"),
    [
        ("distill", "Set max_length=8 or less.", "Give --set max_length=8 or less."),
        ("distill", "pass public_model=<a model like the student>, or wait", "pass --public-model, or wait"),
        ("distill", "Pass teacher_model=None to learn", "Pass no --teacher to learn"),
        ("distill", "pass completion_only_loss=False.", "pass --set completion_only_loss=false."),
        ("distill", "or pass tagger=None with protection='none'.", "or pass --plain."),
        ("distill", "protection='population' and 'noise' differ", "--protection population and 'noise' differ"),
        ("distill", "Train less, or raise target_epsilon.", "Train less, or raise --set target_epsilon."),
        (
            "cache-teacher",
            "protect=True needs temperature_mode='teacher_only'",
            "--protect needs --set temperature_mode=teacher_only",
        ),
        ("audit", "private_text=..., or members", "--pii, or members"),
        ("budget", "noise_multiplier=0 must be positive", "--noise 0 must be positive"),
    ],
)
def test_settings_become_options(command, text, words):
    assert in_words(text, command, FIELDS if command in ("distill", "cache-teacher") else ()) == words


@pytest.mark.parametrize(
    "text",
    [
        "There is no folder out/seed=3 here.",
        "There is no folder public_model, look.",
        "The columns are ['max_steps', 'train_dataset'].",
        "A label ('task=4') is none.",
    ],
)
def test_a_users_own_words_stay(text):
    assert in_words(text, "distill", FIELDS, ["public_model"]) == text


def test_calls_are_left_out_with_what_led_to_them():
    assert without_calls("Drop such rows, such as dataset.filter(lambda row: (row['x'] or 1)).") == "Drop such rows."
    assert (
        without_calls("It has 3 tokens (of which none is private).") == "It has 3 tokens (of which none is private)."
    )


def test_every_option_is_one_of_its_command():
    from typer.main import get_command

    from swingkd.cli import app

    commands = get_command(app).commands
    for command, options in OPTIONS.items():
        own = {option for parameter in commands[command].params for option in parameter.opts}
        assert set(options.values()) <= own, command
