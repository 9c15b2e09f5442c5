"""Distil a language model with TRL's GKDTrainer on the rows of a data set."""

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer, RuleTagger


def main(model_name, teacher_name, train_file, output_dir):
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name)
    teacher_model = AutoModelForCausalLM.from_pretrained(teacher_name)
    rows = load_dataset("json", data_files=train_file, split="train")
    args = PrivateDistillationConfig(
        output_dir, max_steps=3, report_to=[], use_cpu=True, logging_steps=1, max_length=64, temperature=0.9, beta=0.5,
        bf16=False,
        alpha=1.0, protection="drop",
    )
    trainer = PrivateDistillationTrainer(
        model=model,
        teacher_model=teacher_model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer, tagger=RuleTagger(),
    )
    trainer.train()
    trainer.save_model()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]
