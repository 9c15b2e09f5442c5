"""The measures as `evaluate` modules: they load by path, and each folder can be pushed to the Hub as it is.

>>> import evaluate
>>> recall = evaluate.load(module_path("pii_character_recall"))
>>> recall.compute(predictions=[[[0, 3]]], references=[[[0, 6]]])["recall"]
0.5
"""

from __future__ import annotations

from pathlib import Path


def module_path(name: str) -> str:
    """Return the folder of a module, for `evaluate.load`.

    Args:
        name: "canary_exposure", "membership_inference" or "pii_character_recall".

    Raises:
        ValueError: there is no such module.
    """
    folder = Path(__file__).parent / name
    if not (folder / f"{name}.py").exists():
        known = sorted(path.parent.name for path in Path(__file__).parent.glob("*/README.md"))
        raise ValueError(f"There is no evaluate module {name!r}. Choose one of {', '.join(known)}.")
    return str(folder)
