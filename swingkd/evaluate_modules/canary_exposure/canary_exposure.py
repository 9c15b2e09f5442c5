"""Canary exposure as an evaluate module."""

import datasets
import evaluate
import numpy as np

from swingkd.audit.exposure import modelled_exposure, sampled_exposure

_DESCRIPTION = """
How much likelier a language model finds secrets that were put into its training text than random fillings of the same
template, in bits.  A secret that was never seen has 1.44 bits on average.
"""
_INPUTS = """
Args:
    predictions: log-probability of each secret (any base, higher means likelier).
    references: for each secret, the log-probabilities of random fillings of its template.
    method: "sampled" (rank among the references; at most log2 of their number) or "modelled" (extrapolated with a
        skew-normal fit of the references).
Returns:
    exposure: the mean, in bits.
    exposures: one a secret, in bits.
"""
_CITATION = """
@inproceedings{carlini2019secret,
  title={The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural Networks},
  author={Carlini, Nicholas and Liu, Chang and Erlingsson, {\\'U}lfar and Kos, Jernej and Song, Dawn},
  booktitle={USENIX Security}, year={2019}
}
"""


class CanaryExposure(evaluate.Metric):
    """Exposure from scores."""

    def _info(self):
        features = {
            "predictions": datasets.Value("float64"),
            "references": datasets.Sequence(datasets.Value("float64")),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/1802.08232"],
        )

    def _compute(self, predictions, references, method="sampled"):
        methods = {"sampled": sampled_exposure, "modelled": lambda *scores: modelled_exposure(*scores)[0]}
        if method not in methods:
            raise ValueError(f"method={method!r} is not known. Choose 'sampled' or 'modelled'.")
        empty = [i for i, others in enumerate(references) if not len(others)]
        if empty:
            raise ValueError(f"Secret {empty[0]} has no references to be ranked among.")
        exposures = [
            methods[method](secret, np.asarray(others)) for secret, others in zip(predictions, references, strict=True)
        ]
        return {"exposure": float(np.mean(exposures)), "exposures": exposures}
