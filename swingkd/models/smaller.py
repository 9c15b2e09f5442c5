"""A smaller model of the same family, which begins with some of a larger one's layers (as DistilBERT did: Sanh et al.
2019, arXiv 1910.01108).

>>> evenly(8, 30)
[0, 4, 8, 12, 17, 21, 25, 29]
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from swingkd.models.base_model import has_adapter
from swingkd.models.vocabulary import CutVocabulary


def student_from(
    base: PreTrainedModel, layers: int | Sequence[int], *, vocabulary: CutVocabulary | None = None
) -> PreTrainedModel:
    """Return a new model with some of a model's layers, and all else that it has.

    Take the public base, not the teacher: a student that begins with weights of a private teacher has learnt what the
    teacher learnt before a single target is protected, and the trainer refuses it.

    Args:
        base: a model of transformers with one stack of layers, such as Llama, GPT-2, BERT or ViT; it is not changed.
        layers: how many, evenly spaced from the first to the last; or which, from 0 on, in their order.
        vocabulary: cut the embeddings, and the head of a language model, to these tokens.

    Raises:
        ValueError: the model has an adapter, is quantised or has no single stack of layers; there are no such layers.
    """
    check_copyable(base)
    stack, old = _stack_of(base)
    chosen = evenly(layers, old) if isinstance(layers, int) else list(layers)
    if not chosen or chosen != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < old:
        raise ValueError(
            f"layers={layers!r} does not choose among the model's {old} layers. Give a number from 1 to {old}, or "
            f"rising places from 0 to {old - 1}, such as {evenly(min(4, old), old)}."
        )
    config = _with_layers(base.config, chosen, old)
    kept = None
    if vocabulary is not None:
        kept = _check_vocabulary(base, vocabulary)
        config.get_text_config().vocab_size = len(kept)
        vocabulary.renumber(config)
    student = type(base)._from_config(config, dtype=base.dtype)
    student.load_state_dict(_weights(base, student, stack, chosen, kept))
    if getattr(base, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(base.generation_config)
        if vocabulary is not None:
            vocabulary.renumber(student.generation_config)
    # It is another model than the one whose name it would bear.
    student.config._name_or_path = ""
    return student.train(base.training).to(base.device)


def evenly(count: int, of: int) -> list[int]:
    """Return so many places, evenly spaced from the first to the last; one alone is the first.

    Args:
        count: how many.
        of: places there are.
    """
    if not 1 <= count <= of:
        return []
    return np.linspace(0, of - 1, count).round().astype(int).tolist()


def check_copyable(model: Any) -> None:
    """Refuse a model whose layers are not its own plain matrices.

    Raises:
        ValueError: says what it is.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"A {type(model).__name__} is no model of transformers whose layers could be taken. Of an adapter, take "
            "the base model, or merge it first (model.merge_and_unload())."
        )
    if has_adapter(model):
        raise ValueError("The model has an adapter on its layers. Take its base, loaded without the adapter.")
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError("The model is quantised, and its layers could not be trained. Load it in full precision.")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("Weights of the model are offloaded or not loaded at all. Load it whole (no device_map).")


def stacks_of(model: PreTrainedModel) -> list[str]:
    """Return where a model keeps its layers; nothing where its configuration names no number of them.

    Args:
        model: of transformers.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [
        name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and 0 < len(part) == count
    ]
    # What a layer holds itself, its experts perhaps, lies below one.
    return [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]


def _stack_of(model: PreTrainedModel) -> tuple[str, int]:
    """Return where a model keeps its layers, and how many they are."""
    stacks = stacks_of(model)
    if len(stacks) != 1 or getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"A {type(model).__name__} does not have one stack of layers to choose from "
            f"({', '.join(stacks) or 'none'}). Llama-, GPT-2-, BERT- and ViT-like models have."
        )
    return stacks[0], model.config.get_text_config().num_hidden_layers


def _with_layers(config: Any, chosen: list[int], old: int) -> Any:
    """Return a copy of a configuration for these layers alone; lists with an entry a layer keep theirs."""
    config = copy.deepcopy(config)
    part = config.get_text_config()
    for name, value in list(vars(part).items()):
        if isinstance(value, list) and len(value) == old and not name.startswith("_"):
            setattr(part, name, [value[place] for place in chosen])
    part.num_hidden_layers = len(chosen)
    return config


def _check_vocabulary(base: PreTrainedModel, vocabulary: CutVocabulary) -> torch.Tensor:
    size = base.config.get_text_config().vocab_size
    if int(vocabulary.kept.max()) >= size:
        raise ValueError(
            f"The vocabulary keeps token {int(vocabulary.kept.max())}, and the model has {size}. Cut the vocabulary "
            "of the model's own tokenizer."
        )
    return vocabulary.kept


def _weights(
    base: PreTrainedModel, student: PreTrainedModel, stack: str, chosen: list[int], kept: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Return the student's weights by their names: those of the base, of its layers those that were chosen."""
    place = {old: new for new, old in enumerate(chosen)}
    shapes = {name: tensor.shape for name, tensor in student.state_dict().items()}
    weights = {}
    for name, tensor in base.state_dict().items():
        if name.startswith(f"{stack}."):
            layer, _, rest = name.removeprefix(f"{stack}.").partition(".")
            if int(layer) not in place:
                continue
            name = f"{stack}.{place[int(layer)]}.{rest}"
        if kept is not None and name in shapes and tensor.shape != shapes[name]:
            # Embeddings, the head and its bias: one row a token.
            tensor = tensor[kept.to(tensor.device)]
        weights[name] = tensor.detach().clone()
    return weights
