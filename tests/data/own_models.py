"""Models that a learner might bring to the lab on deployment: three that it takes, and others."""

import torch
from torch import nn


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout()
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


def picture():
    return Picture(), (torch.randn(2, 3, 16, 12),)


def wrong_shape():
    return Picture(), (torch.randn(2, 4, 16, 12),)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)

    def forward(self, indices):
        vectors = self.embedding(indices)
        return {"each": vectors, "sum": vectors.sum(1)}


def tokens():
    return Tokens(), torch.randint(0, 50, (2, 7))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x, y):
        return self.layer(x + y), x


def transformer():
    return Layer(), (torch.randn(2, 7, 32), torch.randn(2, 7, 32))


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.deep = nn.Sequential(nn.ReLU(), Bessel())

    def forward(self, x):
        return self.deep(self.first(x))


def no_such_operator():
    return Deep(), (torch.randn(2, 4),)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


def of_a_library():
    return nn.Sequential(nn.Linear(8, 8), Spectrum()), torch.randn(2, 8)


def half_precision():
    return nn.Linear(8, 8).half(), torch.randn(2, 8).half()


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def branch():
    return Branch(), torch.randn(2, 4)


def nothing():
    pass


def no_model():
    return "a model", torch.randn(2, 4)


def no_tensors():
    return Picture(), (3,)


def no_inputs():
    return Picture(), ()


def two_inputs():
    return Layer(), torch.randn(2, 7, 32), torch.randn(2, 7, 32)


def raises():
    raise ValueError("no weights")
