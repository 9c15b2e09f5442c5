"""Small networks for signals, tables and text, of different kinds: clients need not have the same.

None has a batch norm.  DP-SGD can train `SignalCNN`, `MLP` and `CharacterMLP`; Opacus has no gradients per row for the
others.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class SignalCNN(nn.Module):
    """Convolutions over time.

    Args:
        channels: of the signals [n, channels, length].
        classes: how many.
        width: of the first layer; the second has twice as many.
    """

    def __init__(self, channels: int, classes: int, width: int = 16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, width, 5, padding=2),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(width, 2 * width, 5, padding=2),
            nn.GroupNorm(4, 2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.layers(inputs)[..., 0])


class SignalTransformer(nn.Module):
    """Attention over patches of time.

    Args:
        channels: of the signals [n, channels, length].
        classes: how many.
        patch: time steps that are seen as one.
        width: of a patch's vector.
    """

    def __init__(self, channels: int, classes: int, patch: int = 8, width: int = 32):
        super().__init__()
        self.patches = nn.Conv1d(channels, width, patch, stride=patch)
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.layer(self.patches(inputs).transpose(1, 2)).mean(1))


class MLP(nn.Module):
    """Layers that see everything at once.

    Args:
        features: of an example, all its numbers together.
        classes: how many.
        width: of the hidden layers.
        depth: how many of these.
    """

    def __init__(self, features: int, classes: int, width: int = 64, depth: int = 1):
        super().__init__()
        sizes = [features] + [width] * depth
        hidden = [layer for before, after in pairwise(sizes) for layer in (nn.Linear(before, after), nn.ReLU())]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.layers(inputs)


class CharacterMLP(nn.Module):
    """Layers that see the last few characters (Bengio et al. 2003, with characters for words).

    Args:
        vocabulary: how many characters there are.
        classes: how many.
        context: characters that it sees, the last ones of what it is shown.
        width: of the hidden layer.
    """

    def __init__(self, vocabulary: int, classes: int, context: int = 4, width: int = 64):
        super().__init__()
        self.context = context
        self.characters = nn.Embedding(vocabulary, 16)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16 * context, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.layers(self.characters(input_ids[:, -self.context :]))


class CharacterLSTM(nn.Module):
    """An LSTM that reads characters (the network of LEAF's Shakespeare task, smaller; Caldas et al. 2018).

    Args:
        vocabulary: how many characters there are.
        classes: how many.
        width: of its state.
    """

    def __init__(self, vocabulary: int, classes: int, width: int = 64):
        super().__init__()
        self.characters = nn.Embedding(vocabulary, 16)
        self.lstm = nn.LSTM(16, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.lstm(self.characters(input_ids))[0][:, -1])
