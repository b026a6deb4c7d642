"""Training as PyTorch's own classes do it, on the windows that `regroup` trains on, in its order."""

import h5py
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

WORD = 2**64


def mixed(x):
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % WORD
    return x ^ x >> 31


def split_mix(state):
    while True:
        state = (state + 0x9E3779B97F4A7C15) % WORD
        yield mixed(state)


def order_of_epoch(n_windows, seed, epoch):
    """Fisher and Yates's shuffle from the back, each draw without the bias of a plain remainder."""
    random = split_mix(next(split_mix(seed)) ^ next(split_mix(~epoch % WORD)))
    order = list(range(n_windows))
    for n in range(n_windows, 1, -1):
        draw = next(value for value in random if value >= WORD % n) % n
        order[n - 1], order[draw] = order[draw], order[n - 1]
    return order


def batches(token_file, seq_len, n_sequences, n_steps, seed=0):
    """Of each step: tokens, [n_sequences, seq_len + 1]."""
    with h5py.File(token_file) as file:
        tokens = torch.from_numpy(file["train/tokens"][:].astype(np.int64))
    windows = tokens.unfold(0, seq_len + 1, seq_len)
    n_epochs = -(-n_steps * n_sequences // len(windows))
    order = sum((order_of_epoch(len(windows), seed, epoch) for epoch in range(n_epochs)), [])
    return [windows[order[step * n_sequences:(step + 1) * n_sequences]] for step in range(n_steps)]


def adamw(model, lr, betas, eps, weight_decay):
    """AdamW as decoders are trained: norm gains and biases do not decay."""
    parameters = list(model.parameters())
    return torch.optim.AdamW([{"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
                              {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0}],
                             lr=lr, betas=betas, eps=eps)


class Clearance(TorchDispatchMode):
    """The least distance of any value from a kink of relu or clamp."""

    def __init__(self):
        super().__init__()
        self.least = float("inf")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.rstrip("_")  # of the form in place, too
        for kink in {"relu": [0], "clamp": args[1:]}.get(name, []):
            self.least = min(self.least, (args[0] - kink).abs().min().item())
        return function(*args, **(kwargs or {}))


def mean_loss(model, tokens):
    logits = model(tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def train(model, optimizer, token_batches, grad_clip):
    """The mean loss of each batch before the update that it gives, and how clear of kinks all values kept."""
    losses, clearance = [], Clearance()
    for tokens in token_batches:
        with clearance:
            loss = mean_loss(model, tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, clearance.least
