"""The classes of a classifier: their numbers, their names, and whether two models mean the same ones."""

from __future__ import annotations

from typing import Any

from datasets import ClassLabel, Features
from transformers import PreTrainedConfig


def class_number(label: Any, config: PreTrainedConfig) -> int | None:
    """Return the number of a class that is given by number or name; `None` where the model has no such class."""
    if isinstance(label, str):
        if sum(name == label for name in config.id2label.values()) > 1:
            raise ValueError(f"Two classes of the model are called {label!r}: a label could be either. Give numbers.")
        known_by = config.label2id.get(label)
        known_by = int(known_by) if str(known_by).isdecimal() else None
        if known_by is None:
            # transformers leaves made-up names in label2id where only id2label was set.
            known_by = next((i for i, name in config.id2label.items() if name == label), None)
        label = known_by
    known = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < config.num_labels
    return label if known else None


def described(label: Any) -> str:
    """Return a label for an error: numbers as they are, never text, which may be anything from a wrong column."""
    return f"text of {len(label)} characters" if isinstance(label, str) else repr(label)[:40]


def class_names(config: PreTrainedConfig) -> list[str] | None:
    """Return the names of a model's classes, `None` where they were never named."""
    names = [config.id2label[i] for i in range(config.num_labels)]
    return None if names == [f"LABEL_{i}" for i in range(config.num_labels)] else names


def check_numbered(role: str, config: PreTrainedConfig) -> None:
    """Refuse classes without a number of their own, or names that stand for two numbers.

    Two classes may share a name, as the two cranes of ImageNet do, as long as nobody calls them by it.

    Args:
        role: what the model is called in the error.
        config: the model's.

    Raises:
        ValueError: names the first of them.
    """
    missing = [i for i in range(config.num_labels) if i not in config.id2label]
    if missing or len(config.id2label) != config.num_labels:
        raise ValueError(
            f"The {role} model's id2label has {len(config.id2label)} classes"
            + (f" and none of number {missing[0]}" if missing else "")
            + f", its num_labels is {config.num_labels}. Number them from 0."
        )
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    known = {name: int(i) for name, i in (config.label2id or {}).items() if str(i).isdecimal()}
    # transformers leaves the made-up names where only id2label was set.
    wrong = [name for name, i in known.items() if name in names and names[i : i + 1] != [name]]
    if wrong:
        raise ValueError(
            f"The {role} model's label2id says that {wrong[0]!r} is class {config.label2id[wrong[0]]}, its id2label "
            f"that it is class {names.index(wrong[0])}. Make one the inverse of the other."
        )


def check_same_classes(student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    """Refuse a teacher that has other classes than its student.

    Raises:
        ValueError: their numbers differ, or the names at one number.
    """
    if student.num_labels != teacher.num_labels:
        raise ValueError(
            f"The teacher has {teacher.num_labels} classes, the student {student.num_labels}. Make the student with "
            f"num_labels={teacher.num_labels}, and the teacher's id2label and label2id."
        )
    names, teacher_names = class_names(student), class_names(teacher)
    if names and teacher_names and _folded(names) != _folded(teacher_names):
        pairs = zip(_folded(names), _folded(teacher_names), strict=True)
        i = next(i for i, (one, two) in enumerate(pairs) if one != two)
        raise ValueError(
            f"Class {i} is {names[i]!r} to the student and {teacher_names[i]!r} to the teacher. Make the student with "
            "the teacher's id2label and label2id."
        )


def adopt_class_names(student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    """Give a student whose classes were never named the teacher's names: they are its classes.

    Args:
        student: its configuration is changed.
        teacher: of as many classes.
    """
    if class_names(student) is None and class_names(teacher) is not None:
        student.id2label, student.label2id = dict(teacher.id2label), dict(teacher.label2id)


def _folded(names: list[str]) -> list[str]:
    """Return names for a comparison: POSITIVE is positive."""
    return [str(name).casefold() for name in names]


def check_class_names(features: Features | None, column: str, config: PreTrainedConfig) -> None:
    """Refuse data that names its classes, in another order than the model does.

    Raises:
        ValueError: names the first class that differs.
    """
    feature = features.get(column) if features is not None else None
    if not isinstance(feature, ClassLabel):
        feature = getattr(feature, "feature", None)  # of a list of them
    names = class_names(config)
    if not isinstance(feature, ClassLabel) or names is None:
        return
    known, given = _folded(names), _folded(feature.names)
    moved = [i for i, own in enumerate(given) if own in known and (i >= len(known) or known[i] != own)]
    if moved:
        i = moved[0]
        own = names[i] if i < len(names) else None
        raise ValueError(
            f"Class {i} is {own!r} to the model and {feature.names[i]!r} in the data. Bring them into one order: "
            "dataset.align_labels_with_mapping(model.config.label2id, "
            f"{column!r})."
        )


def check_single_label(role: str, config: PreTrainedConfig) -> None:
    """Refuse a model that has no classes of which one is right.

    Raises:
        ValueError: it is a regression, or several classes are right at once.
    """
    if config.num_labels < 2 or config.problem_type in ("regression", "multi_label_classification"):
        raise ValueError(
            f"The {role} model has num_labels={config.num_labels} and problem_type={config.problem_type!r}. Protected "
            "distillation is for classes of which one is right: num_labels of 2 or more, and no problem_type, or "
            "'single_label_classification'."
        )
