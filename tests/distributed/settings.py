"""The settings of a short training that one process and two can do alike."""

from typing import Any

from swingkd import PrivateDistillationConfig


def settings(folder: str, batch_size: int, **others: Any) -> PrivateDistillationConfig:
    """Plain SGD on the CPU, with nothing reported or saved on the way."""
    return PrivateDistillationConfig(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        optim="sgd",
        learning_rate=0.1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        max_length=64,
        **others,
    )
