"""The models of the lab `whole_models`, in plain PyTorch: a ResNet and a stack of GPT-2's blocks.

Nothing is downloaded: the parameters are random, batch norm's statistics too, so that a compiler
that got one wrong would be noticed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and what came in added to what comes out."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """He et al., 2015. With the widths as they are it is ResNet-18."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512), classes: int = 1000) -> None:
        super().__init__()
        first = widths[0]
        self.conv = nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(first)
        blocks, inputs = [], first
        for stage, outputs in enumerate(widths):
            blocks.append(Residual(inputs, outputs, stride=2 if stage else 1))
            blocks.append(Residual(outputs, outputs, stride=1))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        return self.out(self.blocks(x).mean((2, 3)))


class Block(nn.Module):
    """A block of GPT-2: causal attention, then two linear layers with a GELU between them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        apart = (batch, length, self.heads, width // self.heads)
        q, k, v = (
            one.reshape(apart).transpose(1, 2) for one in self.qkv(self.norm1(x)).split(width, 2)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Blocks(nn.Module):
    """The blocks of GPT-2 without the vocabulary at either end: embeddings in, embeddings out."""

    def __init__(
        self, layers: int = 4, width: int = 256, length: int = 128, heads: int = 4
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.blocks(x + self.position))


def with_parameters(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random parameters and statistics, of a size that keeps its values in bounds;
    in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=random)
            nn.init.normal_(layer.bias, std=0.1, generator=random)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1, generator=random)
            layer.running_var.uniform_(0.5, 1.5, generator=random)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            std = (2 / layer.weight[0].numel()) ** 0.5
            nn.init.normal_(layer.weight, std=std, generator=random)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1, generator=random)
        if isinstance(layer, Blocks):
            nn.init.normal_(layer.position, std=0.1, generator=random)
    return model.eval()


# What the lab compiles: how to make the model, and the shape of its input. The small one is for a
# first look: a search through all of it takes seconds.
MODELS = {
    "resnet18": (ResNet, (1, 3, 224, 224)),
    "gpt_blocks": (Blocks, (1, 128, 256)),
    "small": (lambda: ResNet((8,), classes=5), (1, 3, 32, 24)),
}


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A model by its name, always with the same parameters, and the shape of its input."""
    make, shape = MODELS[name]
    return with_parameters(make()), shape
