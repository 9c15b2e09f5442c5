"""Two steps of DP-SGD in float64 on the whole data; every process runs this file, the first one saves the student.

The draws can be repeated here, so that one process and two can be compared; outside of tests none can.
"""

import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file

import swingkd.privacy.dp_sgd
import swingkd.privacy.sampling
from swingkd import PrivateDistillationTrainer
from tests.distributed.leaving import leave_together
from tests.distributed.settings import settings
from tests.harness import TEXTS, tiny_model, train_tokenizer


def replayable(device="cpu"):
    return torch.Generator(device).manual_seed(5)


def main(folder: str, batch_size: int, kind: str) -> None:
    swingkd.privacy.dp_sgd.secret_generator = swingkd.privacy.sampling.secret_generator = replayable
    tokenizer = train_tokenizer(TEXTS)
    args = settings(
        folder,
        batch_size,
        protection="none",
        max_steps=2,
        noise_multiplier=0.7,
        clip_norm=0.3,
        micro_batch_size=7,
        ghost_clipping=kind == "ghost",
    )
    torch.manual_seed(0)
    trainer = PrivateDistillationTrainer(
        tiny_model(len(tokenizer), seed=1).double(),
        args,
        teacher_model=tiny_model(len(tokenizer), hidden=24, seed=2).double(),
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if kind == "lora" else None,
    )
    torch.manual_seed(1)
    trainer.model.double()
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora" in name:
                weight.normal_()
    trainer.train()
    assert trainer.ledger.entries[0].releases == 2
    trained = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
    if trainer.is_world_process_zero():
        epsilon = torch.tensor(trainer.ledger.epsilon(), dtype=torch.float64)
        save_file({**trained, "epsilon": epsilon}, f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
