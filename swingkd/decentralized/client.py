"""One participant: it learns its own examples, and what the others say of the reference examples."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from swingkd.decentralized.client_arguments import ClientArguments
from swingkd.decentralized.labelled_examples import LabelledExamples, answers, batches, check_causal, logits_on
from swingkd.decentralized.message import (
    Message,
    Word,
    fingerprint,
    frozen_digest,
    is_weight,
    load_weights,
    named_weights,
)
from swingkd.decentralized.messengers import likeliest, packed
from swingkd.files import read_as, written_whole
from swingkd.models.whole import check_finite_weights
from swingkd.privacy import DPSGD, TEACHER_DATA, DPSettings, LedgerEntry, PoissonBatches, PrivacyLedger, PrivacyPlan
from swingkd.tagging.threshold import decided
from swingkd.targets import TemperatureSettings

OTHERS = "each of the other clients keeps a ledger of its own"
TOLD = (
    "of messengers and weights; told as they are: how many examples there are, how long learning takes, and "
    "accuracy and loss on test examples, which are not covered"
)


class _State(TypedDict):
    """What a client's file says beside its tensors."""

    run: str
    answered: int
    private_steps: Annotated[int, Field(ge=0)]
    args: dict[str, Any]
    examples: str
    frozen: NotRequired[str]
    seal: str


class Client:
    """A participant with a model and examples of its own.

    Args:
        name: by which the server knows it.
        model: any classifier that returns logits [n, classes]; of texts, a causal language model.
        private: its own examples.
        reference: the shared, labelled examples; nobody's secret.
        args: how it learns.
        test: examples of its own that it does not learn from; default: those that it does, but not under DP-SGD.

    Raises:
        ValueError: model and examples do not fit, DP-SGD cannot train the model, or there is nothing to test it on.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        private: LabelledExamples,
        reference: LabelledExamples,
        args: ClientArguments,
        test: LabelledExamples | None = None,
    ):
        self.name, self.model, self.private, self.reference, self.args = name, model, private, reference, args
        self.test = test or private
        if private.classes != reference.classes:
            raise ValueError(f"{name} has {private.classes} classes, the reference examples {reference.classes}.")
        if args.target_epsilon is not None and test is None:
            raise ValueError(f"{name} needs test examples: its accuracy on those that it learns is not protected.")
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(f"{name} has a model without a weight that may change: is it frozen?")
        logits = logits_on(model, reference.select(torch.arange(min(2, len(reference)))))
        if logits.shape[1] != private.classes:
            raise ValueError(f"{name}: {type(model).__name__} has {logits.shape[1]} classes, not {private.classes}.")
        if reference.are_texts:
            check_causal(model, reference)
        self.plan = self._plan() if args.target_epsilon is not None else None
        #: Steps of DP-SGD so far.
        self.private_steps = 0
        #: The last round that it learnt in.
        self.answered = -1
        #: The run that it takes part in.
        self.run = ""
        self._frozen = frozen_digest(model)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
        if self.plan is not None:
            dp = self._dp(self.plan)
            try:
                dp.check(lambda rows: self.own_losses(rows % len(private)), 8)
            finally:
                dp.detach()

    def _plan(self) -> PrivacyPlan:
        args, count = self.args, len(self.private)
        return DPSettings(
            units=count,
            # Of fewer examples each step takes all.
            batch=min(args.batch_size, count),
            steps=args.rounds * args.steps_per_round,
            epsilon=args.target_epsilon,
            delta=args.target_delta,
            clip_norm=args.clip_norm,
        ).plan()

    def _dp(self, plan: PrivacyPlan) -> DPSGD:
        """Return DP-SGD with its hooks in the model; `detach` takes them out."""
        return DPSGD(self.model, self._optimizer, plan, len(self.private))

    @property
    def ledger(self) -> PrivacyLedger:
        """What its messengers and weights say of its own examples: they follow from what DP-SGD released."""
        if self.plan is None:
            return PrivacyLedger(unknown={TEACHER_DATA: OTHERS})
        entry = LedgerEntry.of_plan(self.plan, releases=self.private_steps, caveat=TOLD)
        return PrivacyLedger([entry], unknown={TEACHER_DATA: OTHERS})

    # -- asked by the server -------------------------------------------------------------------------------------

    def answer(self, message: Message) -> Message:
        """Do for a round what the server asks for.

        Args:
            message: "run", "round", and what it "wants": "messenger", "weights" or "nothing" after learning, or
                "accuracy" without; perhaps a "target" [R, C], perhaps weights to begin with.

        Raises:
            ValueError: it takes part in another run already, or is asked for what it does not give.
        """
        number, wants, run = int(message.number("round")), message.text("wants"), message.text("run")
        if self.run not in ("", run):
            raise ValueError(f"{self.name} takes part in another run. Make it anew, with a folder of its own.")
        if not self.args.share_weights and (wants == "weights" or any(map(is_weight, message.tensors))):
            raise ValueError(f"{self.name} keeps its weights: share_weights=True is needed for this method.")
        self.run = run
        began, words = time.process_time(), dict[str, Word](round=number, examples=len(self.private))
        tensors: dict[str, torch.Tensor] = {}
        if wants == "accuracy":
            load_weights(self.model, message.tensors)
            logits = logits_on(self.model, self.test)
            words |= {"accuracy": _accuracy(logits, self.test), "loss": _loss(logits, self.test)}
            words["ledger"] = json.dumps(self.ledger.to_dict())
        elif number > self.answered:
            # Asked again after a crash, it says again what it said.
            load_weights(self.model, message.tensors)
            self.learn(number, message.tensors.get("target"))
            self.answered = number
        if wants == "messenger":
            tensors = packed(self.messenger(), self.args.top_k)
            words["reference"] = self.reference.fingerprint()
        if wants == "weights":
            tensors = {name: tensor.clone() for name, tensor in named_weights(self.model).items()}
            words["frozen"] = self._frozen
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        return Message(tensors, words | {"seconds": time.process_time() - began})

    def learn(self, number: int, target: torch.Tensor | None = None) -> None:
        """Learn for a round.

        Args:
            number: of the round.
            target: [R, C] what the others say of the reference examples; `None`: its own examples alone.

        Raises:
            ValueError: the target does not fit, there is no noise planned for another round, or what was learnt is no
                number: then everything is as it was before.
        """
        if target is not None and target.shape != (len(self.reference.flat_labels), self.reference.classes):
            raise ValueError(f"{self.name}: a target of shape {tuple(target.shape)} is not about these references.")
        if target is not None and not bool(target.isfinite().all()):
            raise ValueError(f"{self.name}: the target is not finite.")
        if target is None and self.args.learn_reference_labels:
            target = F.one_hot(self.reference.flat_labels, self.reference.classes).float()
        generator = torch.Generator().manual_seed(self._seed(number))
        before = copy.deepcopy((named_weights(self.model), self._optimizer.state_dict()))
        spent = self.private_steps
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed(number))
                if self.plan is None:
                    self._learn(generator, target)
                else:
                    self._learn_privately(generator, target)
            check_finite_weights(f"model of {self.name}", self.model)
        except Exception:
            # Nothing of it has left this client.
            load_weights(self.model, before[0])
            self._optimizer.load_state_dict(before[1])
            self.private_steps = spent
            raise

    def _seed(self, number: int) -> int:
        """Return a seed that no other client or round has."""
        digest = hashlib.blake2b(f"{self.args.seed}/{self.name}/{number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def _learn(self, generator: torch.Generator, target: torch.Tensor | None) -> None:
        own = batches(len(self.private), self.args.batch_size, generator)
        shared = batches(len(self.reference), self.args.reference_batch_size, generator)
        for rows, reference in itertools.islice(zip(own, shared, strict=False), self.args.steps_per_round):
            self._optimizer.zero_grad(set_to_none=True)
            self.model.train()
            loss = self.own_losses(rows).mean()
            if target is not None:
                loss = (1 - self.args.rho) * loss + self.args.rho * self.others_loss(reference, target)
            loss.backward()
            self._optimizer.step()

    def _learn_privately(self, generator: torch.Generator, target: torch.Tensor | None) -> None:
        assert self.plan is not None
        if self.private_steps + self.args.steps_per_round > self.plan.steps:
            raise ValueError(f"{self.name} has noise for {self.args.rounds} rounds, and they are over.")
        weight = 1.0 if target is None else 1 - self.args.rho
        shared = batches(len(self.reference), self.args.reference_batch_size, generator)
        dp = self._dp(self.plan)
        poisson = PoissonBatches(self.plan, rows=len(self.private))
        drawn = itertools.chain.from_iterable(itertools.repeat(poisson))
        try:
            for rows, reference in itertools.islice(zip(drawn, shared, strict=False), self.args.steps_per_round):
                self.model.train()
                for part in torch.tensor(rows, dtype=torch.int64).split(self.args.micro_batch_size):
                    if len(part):
                        dp.accumulate(self.own_losses(part))
                dp.finish()
                if target is not None:
                    dp.beside(lambda: self.args.rho * self.others_loss(reference, target), weight)  # noqa: B023
                self.private_steps += 1
                dp.optimizer.step()
                dp.zero_grad()
        finally:
            dp.detach()

    def own_losses(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of own examples with their labels, [n]; likely private ones weigh less.

        Of a text, the mean over its tokens.
        """
        asked = self.private.asked[rows]
        logits = answers(self.model, self.private, rows, row_by_row=self.plan is not None)
        losses = F.cross_entropy(logits, self.private.labels[rows][asked].to(logits.device), reduction="none")
        if self.private.likelihood is not None and self.args.max_temperature > 1:
            losses = losses * (1 - decided(self.private.likelihood[rows][asked])).to(losses)
        return self.private.row_means(losses, rows)

    def others_loss(self, rows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean of T^2 KL(target || own prediction) over reference examples.

        In evaluation mode: the reference examples leave no trace in batch norms, and dropout does not blur them.
        """
        self.model.eval()
        temperature = self.args.temperature
        own = (answers(self.model, self.reference, rows) / temperature).log_softmax(-1)
        theirs = target[self.reference.places(rows)].to(own).clamp_min(1e-8).pow(1 / temperature)
        theirs = theirs / theirs.sum(-1, keepdim=True)
        return temperature**2 * F.kl_div(own, theirs, reduction="batchmean")

    # -- asked by anybody ----------------------------------------------------------------------------------------

    def messenger(self) -> torch.Tensor:
        """Return its soft labels of the reference examples, [R, C] float16; softened where they are likely private."""
        logits = logits_on(self.model, self.reference)
        if self.reference.likelihood is not None and self.args.max_temperature > 1:
            swing = TemperatureSettings(base=1.0, maximum=self.args.max_temperature)
            likelihood = decided(self.reference.likelihood[self.reference.asked])
            logits = logits / swing.for_tokens(likelihood).teacher[:, None].to(logits)
        return likeliest(logits.softmax(-1), self.args.top_k).half().cpu()

    def accuracy(self, examples: LabelledExamples) -> float:
        """Return the share of labels (of texts, tokens) that it finds likeliest."""
        return _accuracy(logits_on(self.model, examples), examples)

    # -- crash and rejoin ----------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> None:
        """Write weights, the optimizer's state and what was spent; what was there stays until the new is whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self._optimizer.state_dict()["state"]
        # Copies: weights may be tied.
        tensors = {
            name: t.clone(memory_format=torch.contiguous_format) for name, t in named_weights(self.model).items()
        }
        tensors |= {f"optimizer.{i}.{key}": t for i, entry in state.items() for key, t in entry.items()}
        words = {
            "run": self.run,
            "answered": self.answered,
            "private_steps": self.private_steps,
            "args": asdict(self.args),
            "examples": self.private.fingerprint(),
            "frozen": self._frozen,
        }
        words["seal"] = _seal(words, tensors)
        with written_whole(folder / "client.safetensors") as part:
            save_file(tensors, part, {"state": json.dumps(words)})

    def load(self, folder: str | os.PathLike) -> bool:
        """Go on from what `save` wrote; return whether there was anything.

        Raises:
            ValueError: it was written with other settings or of other examples, or was changed since: its ledger would
            not be true.
        """
        path = Path(folder) / "client.safetensors"
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            words = read_as(_State, (file.metadata() or {}).get("state", ""), str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if words["seal"] != _seal({name: value for name, value in words.items() if name != "seal"}, tensors):
            raise ValueError(
                f"{path} was changed after it was written, so what {self.name} spent is not known. Choose another "
                "folder, or start afresh."
            )
        different = [name for name, value in asdict(self.args).items() if words["args"].get(name) != value]
        if different:
            name = different[0]
            now = getattr(self.args, name)
            raise ValueError(f"{path} was written with {name}={words['args'].get(name)!r}, now it is {now!r}.")
        if words["examples"] != self.private.fingerprint():
            raise ValueError(f"{path} was written with other examples of {self.name}. Choose another folder.")
        if words.get("frozen", self._frozen) != self._frozen:
            raise ValueError(
                f"{path} was written beside other frozen weights. Begin {self.name} with the same base as then, or "
                "choose another folder."
            )
        load_weights(self.model, tensors)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name in (name for name in tensors if name.startswith("optimizer.")):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensors[name]
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})
        self.run, self.answered, self.private_steps = words["run"], words["answered"], words["private_steps"]
        return True


def _accuracy(logits: torch.Tensor, examples: LabelledExamples) -> float:
    return float((logits.argmax(1).cpu() == examples.flat_labels).double().mean())


def _loss(logits: torch.Tensor, examples: LabelledExamples) -> float:
    """Return the mean cross-entropy with the labels, in nats; of texts, its exponential is the perplexity."""
    return float(F.cross_entropy(logits.cpu().double(), examples.flat_labels))


def _seal(words: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """Return a digest of all that a checkpoint holds: an edit is seen, though not a forger."""
    told = json.dumps(words, sort_keys=True) + fingerprint(*(tensors[name] for name in sorted(tensors)))
    return hashlib.sha256(told.encode()).hexdigest()
