"""Fine-tune a causal language model on a text file, as transformers' example script for it does."""

import math
import sys
from dataclasses import dataclass, field
from itertools import chain

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, default_data_collator, set_seed
from transformers import TrainingArguments
from swingkd import PrivateDistillationTrainer, RuleTagger


@dataclass
class ScriptArguments:
    model: str = field(metadata={"help": "The model to start from."})
    train_file: str = field(metadata={"help": "Text to train on."})
    validation_file: str = field(metadata={"help": "Text to evaluate on."})
    block_size: int = field(default=64, metadata={"help": "Tokens of a block."})


def main(arguments):
    script_args, training_args = HfArgumentParser((ScriptArguments, TrainingArguments)).parse_args_into_dataclasses(arguments)
    set_seed(training_args.seed)
    files = {"train": script_args.train_file, "validation": script_args.validation_file}
    raw_datasets = load_dataset("text", data_files=files)
    tokenizer = AutoTokenizer.from_pretrained(script_args.model)
    model = AutoModelForCausalLM.from_pretrained(script_args.model)

    def tokenize(examples):
        return tokenizer(examples["text"])

    def group_texts(examples):
        joined = {name: list(chain(*rows)) for name, rows in examples.items()}
        length = len(joined["input_ids"]) // script_args.block_size * script_args.block_size
        result = {
            name: [ids[i : i + script_args.block_size] for i in range(0, length, script_args.block_size)]
            for name, ids in joined.items()
        }
        return result | {"labels": result["input_ids"].copy()}

    tokenized_datasets = raw_datasets.map(tokenize, batched=True, remove_columns=["text"])
    lm_datasets = raw_datasets

    def preprocess_logits_for_metrics(logits, labels):
        return logits.argmax(dim=-1)

    def compute_metrics(prediction):
        guessed, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
        return {"accuracy": float((guessed == labels)[labels != -100].mean())}

    trainer = PrivateDistillationTrainer(
        model=model, teacher_model="teacher", tagger=RuleTagger(),
        args=training_args,
        train_dataset=lm_datasets["train"],
        eval_dataset=lm_datasets["validation"],
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics,
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()
    perplexity = metrics["eval_perplexity"]
    return metrics | {"perplexity": perplexity}


if __name__ == "__main__":
    main(sys.argv[1:])
