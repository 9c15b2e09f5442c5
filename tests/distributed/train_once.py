"""One short training in float64; every process runs this file, the first one saves the student."""

import sys

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from swingkd import Folds, OutOfFoldTeacher, PrivateDistillationTrainer, RuleTagger
from tests.distributed.leaving import leave_together
from tests.distributed.settings import settings
from tests.harness import TEXTS, tiny_model, train_tokenizer


def main(folder: str, batch_size: int, protection: str, kind: str = "rows") -> None:
    tokenizer = train_tokenizer(TEXTS)
    args = settings(
        folder,
        batch_size,
        protection=protection,
        max_steps=3,
        population_min_spans=2,
        noise_support=16,
        hidden_weight=0.5,
        average_tokens_across_devices=True,
    )
    teacher = tiny_model(len(tokenizer), hidden=24, seed=2)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    torch.manual_seed(0)
    # Of unlike lengths: handed round from one process to the others, they could not be joined.
    rows = Dataset.from_dict({"text": [text * (1 + i % 3) for i, text in enumerate(TEXTS)]})
    rows = rows.to_iterable_dataset() if kind == "stream" else Dataset.from_dict({"text": TEXTS})
    teacher = teacher.double()
    if kind == "folds":
        args.alpha = 1.0
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        torch.manual_seed(0)
        adapted = get_peft_model(teacher, lora, adapter_name="fold-0", autocast_adapter_dtype=False)
        adapted.add_adapter("fold-1", lora, autocast_adapter_dtype=False)
        teacher = OutOfFoldTeacher(adapted.double(), Folds.of(rows, 2, near_duplicates=False, seed=0))
    trainer = PrivateDistillationTrainer(
        tiny_model(len(tokenizer), seed=1).double(),
        args,
        teacher_model=teacher,
        train_dataset=rows,
        eval_dataset=Dataset.from_dict({"text": TEXTS[:7]}),
        processing_class=tokenizer,
        tagger=RuleTagger(),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        trainer.model.hint_projection.weight.normal_()
    trainer.model.double()
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        extra = {"perplexity": torch.tensor(metrics["eval_perplexity_flagged"], dtype=torch.float64)}
        save_file(trainer.model.state_dict() | extra, f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
