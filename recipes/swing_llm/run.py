"""Distil a large language model into a small one with protected targets: names of models, a LoRA adapter, many GPUs.

accelerate launch --config_file recipes/accelerate_configs/fsdp2.yaml --num_processes 8 \
  recipes/swing_llm/run.py --config recipes/swing_llm/qwen.yaml
"""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from swingkd import (
    EnsembleTagger,
    PrivateDistillationConfig,
    PrivateDistillationTrainer,
    RuleTagger,
    TokenClassificationTagger,
)
from swingkd.experiments import corpus
from swingkd.experiments.launch import launch
from swingkd.tagging import BaseTagger
from swingkd.trainer.checkpoints import last_complete_checkpoint


def make_tagger(name: str | None) -> BaseTagger:
    """Return the rules, and a trained tagger beside them where one is named."""
    return EnsembleTagger(RuleTagger(), TokenClassificationTagger(name)) if name else RuleTagger()


def make_tokenizer(config: dict) -> PreTrainedTokenizerBase:
    """Load the student's tokenizer; Llama's comes without a padding token, so the configuration names one."""
    return AutoTokenizer.from_pretrained(config["student"], **config.get("tokenizer", {}))


def arguments(config: dict) -> PrivateDistillationConfig:
    """Return the settings of the training."""
    return PrivateDistillationConfig(output_dir=config["output_dir"], **config["training"])


def adapter(config: dict) -> LoraConfig | None:
    """Return the adapter, where the configuration has one."""
    return LoraConfig(task_type="CAUSAL_LM", **config["lora"]) if config.get("lora") else None


def main(config: dict, only: list[str] | None = None) -> Path:
    """Distil, evaluate, save and write the card; return the folder."""
    args = arguments(config)
    trainer = PrivateDistillationTrainer(
        model=config["student"],
        teacher_model=config["teacher"],
        args=args,
        train_dataset=corpus.load(config["data"]["train"]),
        eval_dataset=corpus.load(config["data"]["evaluation"]),
        processing_class=make_tokenizer(config),
        tagger=make_tagger(config.get("tagger")),
        public_model=config.get("public_model"),
        peft_config=adapter(config),
    )
    # Started again, it goes on.
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(args.output_dir))
    trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    return Path(args.output_dir)


if __name__ == "__main__":
    launch(main, __doc__)
