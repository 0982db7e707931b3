"""The same model in eager PyTorch: `with_torch.py WEIGHTS.npz INPUT.npy OUTPUT.npy`."""

import sys

import numpy as np
import torch

if __name__ == "__main__":
    weights, given, result = sys.argv[1:]
    with np.load(weights) as kept:
        w1, b1, w2, b2 = (torch.from_numpy(kept[name]) for name in kept.files)
    with torch.no_grad():
        hidden = torch.relu(torch.from_numpy(np.load(given)) @ w1 + b1)
        np.save(result, (hidden @ w2 + b2).numpy())
