"""How long an extraction will take, from a first taste of its work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swingkd.audit.candidates import candidate_scores
from swingkd.audit.extraction import ATTACKS, Attack
from swingkd.audit.generation import sample_texts

# What the attacks do where nobody says otherwise: tokens of a sample and of a proposal, proposals for a gap.
_SAMPLED, _PROPOSED, _PROPOSALS = 128, 24, 32
_ROWS, _STEPS = 256, 8


def foretell_extraction(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    attacks: Sequence[Attack] = ATTACKS,
    samples: int = 1000,
    candidates: int = 20,
    limit: int = 200,
    sides: int = 1,
) -> float:
    """Return about how many seconds `audit_extraction` will take.

    Args:
        model, tokenizer: what is attacked.
        texts: some that it will be asked about.
        attacks, samples, candidates, limit: as `audit_extraction` has them.
        sides: 2 where text that it never saw is attacked as well.
    """
    some = (list(texts) * 8)[: max(_ROWS // _PROPOSALS, 8)]
    began = time.perf_counter()
    # Each prompt as often as the attack asks it.
    prompts = [text[: len(text) // 2] for text in some for _ in range(_PROPOSALS)]
    sample_texts(model, tokenizer, prompts, max_new_tokens=_STEPS, several=True, progress=False)
    a_token = (time.perf_counter() - began) / (len(prompts) * _STEPS)
    began = time.perf_counter()
    groups = [[f"{text} {i}" for i in range(16)] for text in some[:8]]
    candidate_scores(model, tokenizer, groups, progress=False)
    a_text = (time.perf_counter() - began) / 128
    seconds = 0.0
    if "values" in attacks:
        seconds += samples * _SAMPLED * a_token
    if "reconstruction" in attacks:
        # About half of the proposals say a value, and those are scored.
        seconds += sides * limit * _PROPOSALS * (_PROPOSED * a_token + a_text / 2)
    if "inference" in attacks:
        seconds += sides * limit * candidates * a_text
    if "continuation" in attacks:
        seconds += sides * len(texts) * 50 * a_token
    return seconds
