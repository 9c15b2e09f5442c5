"""Distil a student with canaries in the data and send it to the Hub that HF_ENDPOINT names; then load it from there.

Usage: python -m tests.trainer.push_once OUTPUT_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from swingkd import CanarySet, PrivateDistillationConfig, PrivateDistillationTrainer, RuleTagger, audit_model
from swingkd.report import audit_figures, shown_tokens
from tests.harness import TEXTS, tiny_model, train_tokenizer

SEED = 918273


def main(out: str) -> None:
    tokenizer = train_tokenizer(TEXTS)
    size = len(tokenizer)
    canaries = CanarySet.generate(
        "the account number of {name} is {secret}", length=9, count=8, repetitions=(2,), assign="coin", seed=36
    )
    canaries.save(Path(out) / "_private" / "canaries.json")
    # Left there by somebody who did not read the manual.
    canaries.save(Path(out) / "canaries.json")
    args = PrivateDistillationConfig(
        out,
        max_steps=2,
        seed=SEED,
        data_seed=SEED,
        use_cpu=True,
        report_to=[],
        protection="noise",
        noise_support=16,
        max_length=64,
        hub_token="hf_secret",
        save_steps=1,
        push_to_hub=True,
        hub_strategy="every_save",
        hub_model_id="me/student",
    )
    trainer = PrivateDistillationTrainer(
        tiny_model(size),
        args,
        teacher_model=tiny_model(size, seed=1),
        train_dataset=canaries.insert(Dataset.from_dict({"text": TEXTS})),
        eval_dataset=Dataset.from_dict({"text": TEXTS[:4]}),
        processing_class=tokenizer,
        tagger=RuleTagger(),
    )
    # A model that knows nothing has no curve to show; one is sent all the same, to see where it goes.
    audit_figures.says_something = lambda report, kind: True
    trainer.train()
    trainer.evaluate()
    audit = audit_model(
        trainer.model, tokenizer, canaries=canaries, members=TEXTS[:20], nonmembers=TEXTS[20:40], progress=False
    )
    tokens = shown_tokens(TEXTS[:3], tokenizer, RuleTagger(), args.temperature_settings)
    trainer.push_to_hub(audit=audit, tokens=tokens, license="apache-2.0", dataset="made-up chats", tags="tiny")
    again = AutoModelForCausalLM.from_pretrained("me/student")
    AutoTokenizer.from_pretrained("me/student")
    assert sum(p.numel() for p in again.parameters()) == trainer.model.num_parameters()
    assert again.lm_head.weight.equal(trainer.model.lm_head.weight)
    print("loaded")


if __name__ == "__main__":
    main(sys.argv[1])
