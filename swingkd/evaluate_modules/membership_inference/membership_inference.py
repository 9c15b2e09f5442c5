"""Membership inference as an evaluate module."""

import datasets
import evaluate
import numpy as np

from swingkd.audit.membership import evaluate_attack

_DESCRIPTION = """
How well an attack's scores tell records that a model was trained on from records that it was not: area under the ROC
curve, balanced accuracy, and the true positive rates at 1 % and 0.1 % false positives, with 95 % intervals.
"""
_INPUTS = """
Args:
    predictions: the attack's score of each record; higher means "was in the training data".
    references: 1 for records that were, 0 for those that were not.
    resamples: of the bootstrap.
    seed: of the bootstrap.
Returns:
    auc, balanced_accuracy, tpr_at_1_fpr, tpr_at_01_fpr: the values; each also with _low and _high.  With fewer than
    100 (1,000) nonmembers, the rate above the highest of them.
"""
_CITATION = """
@inproceedings{carlini2022membership,
  title={Membership Inference Attacks From First Principles},
  author={Carlini, Nicholas and Chien, Steve and Nasr, Milad and Song, Shuang and Terzis, Andreas and
          Tram{\\`e}r, Florian},
  booktitle={IEEE Symposium on Security and Privacy}, year={2022}
}
"""


class MembershipInference(evaluate.Metric):
    """AUC and true positive rates at few false positives."""

    def _info(self):
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2112.03570"],
        )

    def _compute(self, predictions, references, resamples=1000, seed=0):
        scores, inside = np.asarray(predictions), np.asarray(references)
        if not np.isin(inside, (0, 1)).all():
            raise ValueError(f"references must be 1 (in) or 0 (out); found {sorted(set(inside.tolist()))[:5]}.")
        result = evaluate_attack("given", scores[inside == 1], scores[inside == 0], resamples=resamples, seed=seed)
        numbers = {}
        for name in ("auc", "balanced_accuracy", "tpr_at_1_fpr", "tpr_at_01_fpr"):
            interval = getattr(result, name)
            numbers |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return numbers
