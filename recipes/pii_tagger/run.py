"""Train a tagger of private text, calibrate it, and compare it with the rules and with Presidio.

accelerate launch recipes/pii_tagger/run.py --config recipes/pii_tagger/config.yaml
"""

from __future__ import annotations

from pathlib import Path

from swingkd import EnsembleTagger, PresidioTagger, RuleTagger, TokenClassificationTagger
from swingkd.experiments.launch import launch
from swingkd.experiments.taggers import TaggerExperiment


def main(config: dict, only: list[str] | None = None) -> Path:
    """Run a configuration; return where its card is."""
    experiment = TaggerExperiment(config)
    trained = TokenClassificationTagger(str(experiment.train()))
    taggers = {
        "rules": RuleTagger(),
        "presidio": PresidioTagger(),
        **({"presidio_names": PresidioTagger(pipeline=config["spacy"])} if "spacy" in config else {}),
        "pii_tagger": trained,
        "rules_and_pii_tagger": EnsembleTagger(RuleTagger(), trained),
    }
    return experiment.run(taggers, only)


if __name__ == "__main__":
    launch(main, __doc__)
