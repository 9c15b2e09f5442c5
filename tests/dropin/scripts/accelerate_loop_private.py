"""Fine-tune a classifier in a loop of one's own on Accelerate, as its example of it does."""

import torch
from accelerate import Accelerator
from datasets import load_dataset
from swingkd import RuleTagger, collator_of, distillation_loss, prepare_rows, targets, teacher_logits
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup, set_seed


def get_dataloaders(tokenizer, model, train_file, batch_size):
    datasets = load_dataset("csv", data_files={"train": train_file, "validation": train_file})

    def tokenize(examples):
        return tokenizer(examples["sentence1"], examples["sentence2"], truncation=True, max_length=64)

    task = "text-classification"
    tokenized = {name: prepare_rows(rows, tokenizer, RuleTagger(), model, task) for name, rows in datasets.items()}

    def collate(rows):
        return collator_of(tokenizer, task)(rows)

    train = DataLoader(tokenized["train"], shuffle=True, collate_fn=collate, batch_size=batch_size)
    return train, DataLoader(tokenized["validation"], collate_fn=collate, batch_size=batch_size)


def main(model_name, train_file, epochs=1, lr=1e-2, seed=42, batch_size=8):
    accelerator = Accelerator(cpu=True)
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=2)
    train_dataloader, eval_dataloader = get_dataloaders(tokenizer, model, train_file, batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(train_dataloader) * epochs)
    prepared = accelerator.prepare(model, optimizer, train_dataloader, eval_dataloader, schedule)
    model, optimizer, train_dataloader, eval_dataloader, schedule = prepared
    teacher = AutoModelForSequenceClassification.from_pretrained("teacher").eval()
    losses = []
    for _ in range(epochs):
        model.train()
        for batch in train_dataloader:
            outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
            loss = distillation_loss(outputs.logits, teacher_logits(teacher, batch, "text-classification"), batch, protection=targets.Drop(), task="text-classification")
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss))
        model.eval()
        right = 0
        for batch in eval_dataloader:
            with torch.no_grad():
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            right += int((logits.argmax(-1) == batch["labels"]).sum())
    return {"losses": losses, "right": right}
