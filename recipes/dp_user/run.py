"""Differential privacy for whole users: all that one of them wrote counts as one.

accelerate launch recipes/dp_user/run.py --config recipes/dp_user/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, concatenate_datasets

from swingkd import CanarySet
from swingkd.experiments import corpus
from swingkd.experiments.launch import launch
from swingkd.experiments.private_language import private_experiment


class Users:
    """Every row belongs to a user; every canary, with all its copies, is a user of its own.

    Evaluated on users that no model saw.
    """

    def load(self, data: dict) -> tuple[Dataset, dict[str, Dataset]]:
        """Return the text of most users, and that of those who are held out."""
        spec = dict(data["users"])
        text, user = spec.pop("text_column", "text"), spec.pop("user_column")
        rows = corpus.load(spec).select_columns([text, user])
        rows = rows.rename_columns({name: new for name, new in ((text, "text"), (user, "user")) if name != new})
        names = sorted(set(rows["user"]))
        # Every so-many-th of all users, in alphabetical order.
        held_out = set(names[:: round(1 / data["held_out"])])
        split = [
            rows.filter(lambda row, inside=inside: (row["user"] in held_out) != inside, desc="Splitting users")
            for inside in (True, False)
        ]
        return split[0], {"test": split[1].select_columns(["text"])}

    def with_canaries(self, text: Dataset, copied: CanarySet, coins: CanarySet) -> Dataset:
        """Return the text with canaries, each of a user of its own."""
        own = [
            {"text": canary.text, "user": f"{kind}-{canary.id}"}
            for kind, canaries in (("copied", copied), ("coin", coins))
            for canary in canaries.canaries
            for _ in range(canary.repetitions if canary.inserted else 0)
        ]
        return concatenate_datasets([text, Dataset.from_list(own)]).shuffle(seed=0)


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    return private_experiment(config, Users()).run(only)


if __name__ == "__main__":
    launch(main, __doc__)
