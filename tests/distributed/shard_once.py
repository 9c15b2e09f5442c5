"""Loss and gradients of a batch in float64, the student sharded by torch's fully_shard; the first process saves them.

`parts`: "layers" (the head stays with the root), "head" (the head is sharded by itself) or "reshard" (the root's
weights are given back after its forward).  With one process nothing is sharded.
"""

import sys

import torch
import torch.distributed as dist
from datasets import Dataset
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer, RuleTagger
from tests.distributed.leaving import leave_together
from tests.harness import TEXTS, tiny_model, train_tokenizer


def main(folder: str, parts: str) -> None:
    tokenizer = train_tokenizer(TEXTS)
    args = PrivateDistillationConfig(
        output_dir=folder,
        protection="noise",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        hidden_weight=0.5,
        noise_support=16,
        max_length=64,
        loss_memory=1,
    )
    student = tiny_model(len(tokenizer), seed=1).double()
    teacher = tiny_model(len(tokenizer), hidden=24, seed=2).double()
    trainer = PrivateDistillationTrainer(
        student,
        args,
        teacher_model=teacher,
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
        tagger=RuleTagger(),
    )
    assert trainer.distillation.fused
    torch.manual_seed(0)
    with torch.no_grad():
        student.hint_projection.weight.normal_()
    student.double()
    rank, size = dist.get_rank(), dist.get_world_size()
    if size > 1:
        for layer in student.model.layers:
            fully_shard(layer)
        if parts == "head":
            fully_shard(student.lm_head)
        fully_shard(student, reshard_after_forward=parts == "reshard")
    rows = [trainer.train_dataset[i] for i in range(8)][rank::size]
    batch = trainer.data_collator(rows)
    losses = trainer.distillation.losses(student, student, batch, lambda: trainer.protection)
    (losses.total * size).backward()  # sharded training averages over processes
    gradients = {
        name: (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad).contiguous()
        for name, p in student.named_parameters()
    }
    total = losses.total.detach().clone()
    dist.all_reduce(total)
    if rank == 0:
        save_file(gradients | {"loss": total}, f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
