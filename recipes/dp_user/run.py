"""Differential privacy for whole users: all that one of them wrote counts as one.

accelerate launch recipes/dp_user/run.py --config recipes/dp_user/config.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Dataset, concatenate_datasets

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "dp_clm"))
from launch import launch
from private import PrivateExperiment, prepare

from swingkd import CanarySet


class UserExperiment(PrivateExperiment):
    """Every row belongs to a user; every canary, with all its copies, is a user of its own.

    Evaluated on users that no model saw.
    """

    def load_private(self):
        spec = dict(self.config["data"]["users"])
        text, user = spec.pop("text_column", "text"), spec.pop("user_column")
        rows = prepare.load(spec).select_columns([text, user])
        rows = rows.rename_columns({name: new for name, new in ((text, "text"), (user, "user")) if name != new})
        names = sorted(set(rows["user"]))
        share = self.config["data"]["held_out"]
        # Every so-many-th of all users, in alphabetical order.
        held_out = set(names[:: round(1 / share)])
        split = [
            rows.filter(lambda row, inside=inside: (row["user"] in held_out) != inside, desc="Splitting users")
            for inside in (True, False)
        ]
        return split[0], {"test": split[1].select_columns(["text"])}

    def with_canaries(self, coins: CanarySet) -> Dataset:
        own = [
            {"text": canary.text, "user": f"{kind}-{canary.id}"}
            for kind, canaries in (("copied", self.canaries), ("coin", coins))
            for canary in canaries.canaries
            for _ in range(canary.repetitions if canary.inserted else 0)
        ]
        return concatenate_datasets([self.private, Dataset.from_list(own)]).shuffle(seed=0)


def main(config: dict, only: list[str] | None = None) -> Path:
    experiment = UserExperiment(config)
    experiment.run(only)
    return experiment.out


if __name__ == "__main__":
    launch(main, __doc__)
