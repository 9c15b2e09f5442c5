"""A private training run that says where it is; killed, it goes on from its last checkpoint."""

import dataclasses
import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from swingkd import PrivateDistillationConfig, PrivateDistillationTrainer
from swingkd.trainer.checkpoints import last_complete_checkpoint
from tests.harness import TEXTS, tiny_model, train_tokenizer


class Progress(TrainerCallback):
    """Writes the number of the step that begins."""

    def __init__(self, path: Path):
        self.path = path

    def on_step_begin(self, args, state, control, **kwargs):
        self.path.write_text(str(state.global_step))


def main(folder: Path, steps: int) -> None:
    tokenizer = train_tokenizer(TEXTS)
    args = PrivateDistillationConfig(
        output_dir=str(folder / "out"),
        target_epsilon=8.0,
        per_device_train_batch_size=10,
        max_steps=steps,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=3,
        max_length=64,
        alpha=0.0,
    )
    trainer = PrivateDistillationTrainer(
        tiny_model(len(tokenizer), seed=1),
        args,
        teacher_model=None,
        train_dataset=Dataset.from_dict({"text": TEXTS}),
        processing_class=tokenizer,
        callbacks=[Progress(folder / "step")],
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(str(folder / "out")))
    result = {
        "steps": trainer.state.global_step,
        "releases": trainer.ledger.entries[0].releases,
        "epsilon": trainer.ledger.epsilon(),
        "plan": dataclasses.asdict(trainer.private.plan),
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
