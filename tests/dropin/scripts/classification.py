"""Fine-tune a classifier of sentence pairs, as transformers' example script for text classification does."""

import sys
from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed


@dataclass
class ScriptArguments:
    model: str = field(metadata={"help": "The model to start from."})
    train_file: str = field(metadata={"help": "Rows to train on."})
    validation_file: str = field(metadata={"help": "Rows to evaluate on."})
    max_seq_length: int = field(default=64, metadata={"help": "Tokens of a pair."})


def main(arguments):
    script_args, training_args = HfArgumentParser((ScriptArguments, TrainingArguments)).parse_args_into_dataclasses(arguments)
    set_seed(training_args.seed)
    files = {"train": script_args.train_file, "validation": script_args.validation_file}
    raw_datasets = load_dataset("csv", data_files=files)
    labels = sorted(raw_datasets["train"].unique("label"))
    config = AutoConfig.from_pretrained(script_args.model, num_labels=len(labels))
    tokenizer = AutoTokenizer.from_pretrained(script_args.model)
    model = AutoModelForSequenceClassification.from_pretrained(script_args.model, config=config)
    model.config.label2id = {str(label): i for i, label in enumerate(labels)}
    model.config.id2label = {i: str(label) for i, label in enumerate(labels)}

    def preprocess(examples):
        pairs = examples["sentence1"], examples["sentence2"]
        result = tokenizer(*pairs, max_length=script_args.max_seq_length, truncation=True)
        result["labels"] = [model.config.label2id[str(label)] for label in examples["label"]]
        return result

    processed = raw_datasets.map(preprocess, batched=True, remove_columns=["label"])

    def compute_metrics(prediction):
        return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=processed["train"],
        eval_dataset=processed["validation"],
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()
    columns = [name for name in processed["validation"].column_names if not name.startswith("label")]
    test = processed["validation"].select_columns(columns)
    predictions = np.argmax(trainer.predict(test).predictions, axis=1)
    return metrics | {"predicted": [model.config.id2label[item] for item in predictions]}


if __name__ == "__main__":
    main(sys.argv[1:])
