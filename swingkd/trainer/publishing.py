"""What leaves the house: the model card, the page, and the files that `push_to_hub` may send.

Only files that are named here are sent, from the top of the output folder: weights, configuration, tokenizer, ledger,
settings without seeds, card, page and figures.  Never `_private/`, canaries, noise keys, checkpoints or pickles:
`training_args.bin` is one, and holds the seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swingkd.audit import AuditReport
from swingkd.data import column_names
from swingkd.files import write_json
from swingkd.models.loading import is_hub_id, public_name
from swingkd.models.whole import check_finite_weights
from swingkd.report import ModelFacts, ShownToken, write_model_files
from swingkd.report.metrics import environment
from swingkd.report.protected import Protected
from swingkd.report.published import SETTINGS_FILE
from swingkd.tasks import Task
from swingkd.trainer.config import PrivateDistillationConfig
from swingkd.trainer.public_settings import public_settings
from swingkd.trainer.sealing import SealingTrainer
from swingkd.trainer.setup import Setup


class PublishingTrainer(SealingTrainer):
    """The hooks of the Hugging Face Trainer that write cards and talk to the Hub."""

    args: PrivateDistillationConfig
    role = "student"
    setup: Setup
    task: Task
    protected: Protected

    @property
    def cached(self) -> bool:
        """Whether the teacher's answers are read from the training rows."""
        return self.train_dataset is not None and "teacher_cache" in column_names(self.train_dataset)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        *,
        audit: AuditReport | None = None,
        tokens: Sequence[Sequence[ShownToken]] = (),
    ) -> None:
        """Write README.md, report.html, figures, their facts and training_args.json into the output folder.

        Args:
            language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args: as in
                `Trainer.create_model_card`: `dataset_tags` are names on the Hub, `dataset` what people call it.
            audit: what `audit_model` found; without it the card says that nobody attacked the model.
            tokens: texts to show, from `swingkd.report.shown_tokens`; private characters are masked.

        Raises:
            ValueError: a data set's tag is no name on the Hub, which would refuse the card; or a weight is not finite.
        """
        wrong = next((name for name in _listed(dataset_tags) if not is_hub_id(name)), None)
        if wrong is not None:
            raise ValueError(f"dataset_tags={wrong!r} is no name on the Hub. Say with dataset= what it is called.")
        check_finite_weights("student", self.model)
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        settings = public_settings(self.args)
        write_json(folder / SETTINGS_FILE, settings)
        facts = ModelFacts(
            title=model_name or folder.resolve().name,
            ledger=self.ledger,
            results=self._results(),
            settings=settings,
            audit=audit,
            task=_first(tasks) or self.task.name,
            base_model=public_name(finetuned_from) or self.setup.models.names.get("student"),
            on_hub=is_hub_id(finetuned_from) if finetuned_from else self.setup.models.began_on_hub,
            teacher=self.setup.models.names.get("teacher"),
            cached=self.cached,
            # Named by the user only: a data set's own name may be that of a folder.
            datasets=tuple(_listed(dataset or dataset_tags)),
            dataset_tags=tuple(_listed(dataset_tags)),
            language=language,
            license=license,
            tags=tuple(_listed(tags)),
            trained=self._how_long(),
            protected=self.protected,
        )
        write_model_files(facts, folder, tokens)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ):
        """Send weights, card, page and figures to the Hub; nothing that is secret.

        Args:
            commit_message, blocking, token, revision, private: as in `Trainer.push_to_hub`; a repository that is made
                is a private one unless `private` or `hub_private_repo` is False.
            **kwargs: for `create_model_card`: audit, tokens, license, dataset, ...
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        kwargs.setdefault("model_name", str(self.hub_model_id).rpartition("/")[2])
        self.create_model_card(**kwargs)
        self._finish_current_push()
        return self._send(self.args.output_dir, commit_message, token, revision, blocking=blocking)

    # --- facts -----------------------------------------------------------------------------------------------------

    def _results(self) -> dict[str, float]:
        """Return what was found of the weights at hand; under DP, what stands in the log is all that may be told."""
        logs = self.state.log_history
        ended = max((i for i, entry in enumerate(logs) if "train_runtime" in entry), default=-1)
        # Of all evaluations during the training one may be about the weights that were kept.
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        kept = best or self.state.global_step
        about = [entry for entry in logs[: ended + 1] if entry.get("step") == kept] + logs[ended + 1 :]
        # Of evaluations under one name the last: what is left of another may be about other rows.
        under = {name: entry for entry in about for name in entry if re.fullmatch("eval_(.+_)?runtime", name)}
        skipped = ("_runtime", "_per_second", "_time")
        return {
            name.removeprefix("eval_"): float(value)
            for entry in under.values()
            for name, value in entry.items()
            if name.startswith("eval_") and isinstance(value, (int, float)) and not name.endswith(skipped)
        }

    def _how_long(self) -> dict[str, str]:
        done: dict[str, Any] = next((logs for logs in reversed(self.state.log_history) if "train_runtime" in logs), {})
        facts = {"steps": f"{self.state.global_step:,}", "weights": f"{self.model.num_parameters():,}"}
        if "train_runtime" in done:
            since = " since it went on from a checkpoint" if self.resumed else ""
            facts["time"] = f"{done['train_runtime']:,.0f} seconds{since}, {self.args.world_size} process(es)"
        return facts | {name: str(value) for name, value in environment().items() if value}


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _first(value: str | Sequence[str] | None) -> str | None:
    return next(iter(_listed(value)), None)
