"""An image classifier on this process's device: asked, attacked, saved and pushed, by one process or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from accelerate import Accelerator
from huggingface_hub import CommitOperationAdd, HfApi, PyTorchModelHubMixin
from safetensors.torch import save_model
from torch import nn
from transformers import PreTrainedModel, ViTImageProcessor

from swingkd.audit import MembershipReport
from swingkd.audit.membership import judge_scores
from swingkd.audit.records import copies_note, first_copies
from swingkd.audit.scores import RecordScores, score_logits
from swingkd.files import write_text
from swingkd.models.half import check_half
from swingkd.models.logits import NoLogitsError, logits_of
from swingkd.models.whole import check_finite_weights
from swingkd.privacy import LedgerEntry, PrivacyLedger, content_keys, module_digest
from swingkd.report import ModelFacts, model_card
from swingkd.report.model_files import CARD_FILE
from swingkd.report.published import public_content, public_files
from swingkd.vision.arguments import ImageArguments
from swingkd.vision.data import Images

Module = TypeVar("Module", bound=nn.Module)


# What is known of a model that was trained in this process, as long as it lives: its ledger, and which weights that is
# about.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[str, PrivacyLedger]] = WeakKeyDictionary()


def _earlier(model: nn.Module) -> tuple[list[LedgerEntry], dict[str, str]]:
    """Return what is known of a model that somebody may have trained on since."""
    if model not in _KNOWN:
        return [], {}
    digest, ledger = _KNOWN[model]
    return ledger.as_earlier(same_weights=module_digest(model) == digest)


class Classifier:
    """An image classifier, and what is known of its training.

    Args:
        model: the classifier.
        args: the settings.
        origin: what is known of the weights that it begins with, where they were trained before, such as
            `PrivacyLedger.of_weights(folder)`.  A model that was trained in this process is known.

    Raises:
        ValueError: half precision is asked for that cannot be had, or a weight is not finite.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, args: ImageArguments, origin: PrivacyLedger | None = None):
        self.args = args
        self._earlier = origin.as_earlier() if origin is not None else _earlier(model)
        # Said aloud: without a GPU, Accelerate would not see that there are other processes.
        cpu = not torch.accelerator.is_available()
        try:
            self.accelerator = Accelerator(
                cpu=cpu,
                mixed_precision=args.mixed_precision,
                step_scheduler_with_optimizer=False,
                log_with=args.log_with,
                project_dir=args.output_dir,
            )
        except ValueError as error:
            # Its settings were looked at when they were made.
            raise ValueError(
                f"mixed_precision={args.mixed_precision!r}, but this process began with another, and a process has "
                "one. Use that, leave it out, or start a new process."
            ) from error
        if self.accelerator.mixed_precision == "fp16":
            raise ValueError("fp16 scales gradients that noise is added to: use mixed_precision='bf16'.")
        check_half(self.accelerator.mixed_precision == "bf16", self.accelerator.device)
        check_finite_weights("model", model)
        self.model = self.place(model)

    @property
    def shown(self) -> Images | None:
        """The images that the model learns to see: how others show it theirs, and what its classes are called."""
        return None

    @property
    def ledger(self) -> PrivacyLedger:
        """What the model's training released, and what it brought along."""
        entries, unknown = self._earlier
        released = self.released()
        return PrivacyLedger([*entries, *released.entries], unknown={**unknown, **released.unknown})

    def released(self) -> PrivacyLedger:
        """Return what this run released so far; it follows from the settings and from what `state` counts."""
        return PrivacyLedger()

    def remember(self) -> None:
        """Let whatever is made of the model in this process know what is known of it, as long as its weights stay."""
        _KNOWN[self.model] = (module_digest(self.model), self.ledger)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with to be gone on from."""
        free = ("output_dir", "progress", "checkpoint_every", "eval_batch_size", "log_with")
        own = {one.name: getattr(self.args, one.name) for one in fields(self.args) if one.name not in free}
        given = {name: asdict(value) if is_dataclass(value) else value for name, value in own.items()}  # type: ignore[arg-type]
        given |= {"optimizer": self.args.optimizer_name}
        return given | {"origin": PrivacyLedger(self._earlier[0], unknown=self._earlier[1]).lines()}

    @property
    def memory_format(self) -> torch.memory_format:
        """How the pixels of an image, and weights, stand in memory."""
        return torch.channels_last if self.args.channels_last else torch.contiguous_format

    def place(self, model: Module) -> Module:
        """Move a model to this process's device and memory format."""
        return model.to(self.accelerator.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Move images to this process's device and memory format."""
        return pixels.to(self.accelerator.device, memory_format=self.memory_format)

    def own(self, rows: torch.Tensor) -> torch.Tensor:
        """Return this process's part of rows."""
        return rows.tensor_split(self.accelerator.num_processes)[self.accelerator.process_index]

    def together(self, part: torch.Tensor, count: int) -> torch.Tensor:
        """Gather what the processes made of their parts of `count` rows, in order."""
        # Parts may differ by a row.
        padded = self.accelerator.pad_across_processes(part)
        sizes = [len(rows) for rows in torch.arange(count).tensor_split(self.accelerator.num_processes)]
        # Not by the length of a part, which is 0 where there are no rows.
        gathered = self.accelerator.gather(padded).tensor_split(self.accelerator.num_processes)
        return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])

    @torch.no_grad()
    def logits(self, model: nn.Module, images: Images | torch.Tensor) -> torch.Tensor:
        """Return what a model says of all images as they are, [n, classes] on the CPU; processes share the work.

        Args:
            model: an image classifier.
            images: the images, or what a model sees of them [n, channels, height, width].
        """
        training = model.training
        model.eval()
        indices = torch.arange(len(images))
        parts = []
        for part in self.own(indices).split(self.args.eval_batch_size):
            with self.accelerator.autocast():
                inputs = images.inputs(part) if isinstance(images, Images) else images[part].float()
                parts.append(logits_of(model, self.inputs(inputs)))
        model.train(training)
        return self.together(torch.cat(parts), len(images)).cpu()

    def finite_logits(self, model: nn.Module, images: Images | torch.Tensor) -> torch.Tensor:
        """Return what a model says of all images; not for shards of private data, where an error would tell of them.

        Raises:
            ValueError: some of it is not finite.
        """
        logits = self.logits(model, images)
        wrong = torch.nonzero(~logits.isfinite().all(1))
        if len(wrong):
            why = "try mixed_precision='no', or look" if self.accelerator.mixed_precision == "bf16" else "look"
            raise ValueError(
                f"{type(model).__name__} gives no finite logits for image {int(wrong[0])}, and for {len(wrong)} of "
                f"{len(images)} in all: {why} for a training run that diverged."
            )
        return logits

    def check_sees(self, model: nn.Module, images: Images | torch.Tensor) -> torch.Tensor:
        """Return what a model says of two images; refuse one that cannot see them.

        Raises:
            ValueError: they have other channels or another size than it was made for.
        """
        two = images.select(torch.arange(min(2, len(images)))) if isinstance(images, Images) else images[:2]
        channels, height, width = (two.pixels if isinstance(two, Images) else two).shape[1:]
        try:
            return self.logits(model, two)
        except NoLogitsError:
            raise
        # Some models assert the size of what they see.
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"{type(model).__name__} cannot see images of {channels} channels and {width}x{height} pixels "
                f"({error}). Images.from_dataset(channels=..., size=...) brings them to what it was made for."
            ) from error

    def check_classes(self, model: nn.Module, images: Images) -> None:
        """Refuse a model that cannot see these images or has other classes, before anything is trained.

        Raises:
            ValueError: it is one.
        """
        logits = self.check_sees(model, images)
        if logits.shape[1] != images.classes:
            raise ValueError(f"{type(model).__name__} has {logits.shape[1]} classes, the images {images.classes}.")

    def check_teacher(self, teacher: nn.Module, images: Images) -> None:
        """Refuse a teacher that cannot see these images, has other classes, or calls them so in another order.

        Raises:
            ValueError: it is one; names the first class that differs.
        """
        self.check_classes(teacher, images)
        names = getattr(getattr(teacher, "config", None), "id2label", None) or {}
        own, theirs = [str(names[i]) for i in sorted(names)], [*map(str, images.names or ())]
        if own != theirs and sorted(own) == sorted(theirs):
            first = next(i for i, name in enumerate(own) if name != theirs[i])
            raise ValueError(
                f"The teacher calls class {first} {own[first]!r}, the images call it {theirs[first]!r}. Number the "
                "labels as it does: dataset.align_labels_with_mapping(teacher.config.label2id, 'label')."
            )

    def check_student(self, images: Images) -> None:
        """Refuse a model that cannot learn these images, before anything is trained.

        Raises:
            ValueError: it has other classes, or no weight that may change; or the images' transform makes none.
        """
        self.check_classes(self.model, images)
        check_trainable(self.model)
        # What it draws here is none of the run's.
        with torch.random.fork_rng(devices=[]):
            images.inputs(torch.arange(min(2, len(images))), torch.Generator().manual_seed(0))

    def evaluate(self, images: Images) -> float:
        """Return the model's accuracy."""
        return float((self.finite_logits(self.model, images).argmax(1) == images.labels).double().mean())

    def audit(
        self, members: Images, nonmembers: Images, references: Sequence[nn.Module] = (), *, resamples: int = 1000
    ) -> MembershipReport:
        """Attack the model: can images that its teacher, or it, was trained on be told from others?

        Args:
            members: images that were used, directly or through a teacher.
            nonmembers: images alike that were not.
            references: models that saw none of either; they add the attacks ratio and rmia.
            resamples: of the bootstrap.

        Raises:
            ValueError: a side is empty, an image is on both, or the model gives no finite logits.
        """
        keys = [content_keys(images.pixels) for images in (members, nonmembers)]
        both_sides = set(keys[0]) & set(keys[1])
        if both_sides:
            raise ValueError(f"{len(both_sides)} images are said to be in and out: drop them from one side.")
        labels = torch.cat([members.labels, nonmembers.labels])
        first, which = first_copies([*zip(chain(*keys), labels.tolist(), strict=True)])

        def score(model: nn.Module) -> RecordScores:
            both = [self.logits(model, images) for images in (members, nonmembers)]
            return score_logits(torch.cat(both)[first], labels[first])

        others = [score(self.place(model)) for model in references]
        inside = int((first < len(members)).sum())
        report = judge_scores(score(self.model), inside, references=others, resamples=resamples)
        return replace(report, notes=(*report.notes, *copies_note(len(which), len(first))))

    def save_model(self, folder: str | Path, title: str = "student", results: dict[str, float] | None = None) -> None:
        """Write the model as safetensors, its ledger and a card; nothing else of the run.

        Args:
            folder: where.
            title: what the card calls the model.
            results: what was measured on it, for the card.

        Raises:
            ValueError: its weights are not finite.
        """
        if not self.accelerator.is_main_process:
            return
        check_finite_weights("student", self.model)
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        if isinstance(self.model, PreTrainedModel) and self.shown is not None:
            _show(self.model, self.shown, path)
        if isinstance(self.model, PreTrainedModel | PyTorchModelHubMixin):
            self.model.save_pretrained(path)
        else:
            save_model(self.model, str(path / "model.safetensors"))
        facts = ModelFacts(
            title,
            self.ledger,
            results or {},
            # Whoever knows the seed knows which images were chosen, and in which order they came; whoever knows all
            # images but one finds it by a digest of all.
            {name: _told(value) for name, value in self.settings().items() if name != "seed"},
            task="image-classification",
            library="transformers" if isinstance(self.model, PreTrainedModel) else "swingkd",
        )
        write_text(path / CARD_FILE, model_card(facts))
        self.ledger.seal(path)

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, title: str = "student", results: dict[str, float] | None = None
    ) -> str:
        """Upload what `save_model` writes to the Hub, and return its address.

        Args:
            repo_id: "name/of-model".
            private: who may see a repository that is made by this.
            title, results: for the card.
        """
        folder = Path(self.args.output_dir) / "model"
        self.save_model(folder, title, results)
        if not self.accelerator.is_main_process:
            return repo_id
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path.name, public_content(path)) for path in public_files(folder)]
        return str(api.create_commit(repo_id, operations, commit_message=f"{title}, by swingkd"))


def check_trainable(model: nn.Module) -> None:
    """Refuse a model without a weight that may change.

    Raises:
        ValueError: and what may be the reason.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("The student has no weight that may change: is it frozen, or the teacher as well?")


def _show(model: PreTrainedModel, images: Images, path: Path) -> None:
    """Let `pipeline("image-classification")` show a saved model images as it learnt them, and name its classes.

    Pipelines show every model colours, so one of grey images gets no processor.
    """
    if images.names is not None:
        model.config.id2label = dict(enumerate(images.names))
        model.config.label2id = {name: number for number, name in enumerate(images.names)}
    channels, height, width = images.pixels.shape[1:]
    if channels == 3:
        mean, std = (list(value) * (1 if len(value) == 3 else 3) for value in (images.mean, images.std))
        size = {"height": height, "width": width}
        processor = ViTImageProcessor(size=size, resample=images.resample, image_mean=mean, image_std=std)
        processor.save_pretrained(path)


def _told(value: Any) -> Any:
    """Return what a card tells of a setting: of images neither their digest nor how many there are."""
    if not isinstance(value, dict) or "content" not in value:
        return value
    return {name: each for name, each in value.items() if name not in ("content", "count")}
