"""Two steps of DP-SGD on pairs of answers, through TRL's own trainer; every process runs this file.

Its loss gathers statistics from all processes, of which each has another number of pairs here.
"""

import sys

import torch
from datasets import Dataset
from safetensors.torch import save_file
from trl import DPOConfig, DPOTrainer

import swingkd.privacy.dp_sgd
import swingkd.privacy.sampling
from swingkd import PrivacyArguments, private
from tests.distributed.leaving import leave_together
from tests.harness import NAMES, TEXTS, flat, tiny_model, train_tokenizer


def replayable(device="cpu"):
    return torch.Generator(device).manual_seed(5)


def main(folder: str, batch_size: int) -> None:
    swingkd.privacy.dp_sgd.secret_generator = swingkd.privacy.sampling.secret_generator = replayable
    tokenizer = train_tokenizer(TEXTS)
    args = DPOConfig(
        folder,
        per_device_train_batch_size=batch_size,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
    )
    pairs = {
        "prompt": [f"hello {name}, my pin is" for name in NAMES * 3],
        "chosen": [f" {i * 17 % 90 + 10}. thank you" for i in range(30)],
        "rejected": [f" {i * 31 % 90 + 10}" for i in range(30)],
    }
    trainer = private(DPOTrainer)(
        tiny_model(len(tokenizer), seed=1).double(),
        tiny_model(len(tokenizer), seed=2).double(),
        args,
        train_dataset=Dataset.from_dict(pairs),
        processing_class=tokenizer,
        privacy=PrivacyArguments(noise_multiplier=0.7, clip_norm=0.3),
    )
    trainer.train()
    assert trainer.ledger.entries[0].releases == 2
    trained = {name: p.detach() for name, p in trainer.model.named_parameters()}
    # Every process has the same weights in the end.
    everywhere = trainer.accelerator.gather(flat(trainer.model)[None])
    assert torch.equal(everywhere, everywhere[:1].expand_as(everywhere))
    if trainer.is_world_process_zero():
        epsilon = torch.tensor(trainer.ledger.epsilon(), dtype=torch.float64)
        save_file({**trained, "epsilon": epsilon}, f"{folder}/result.safetensors")
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
