"""The airbench94 recipe (arXiv 2404.00498) in PyTorch: what the fast recipe is held against.

Written from the paper's description: bfloat16 autocast, channels last. It needs NumPy and
``pip install torch==2.13.0``, and nothing of this project, so that it can run in an environment of
its own.

usage: python benchmarks/airbench.py DIR [--epochs 9.9] [--seed 0]
       python benchmarks/airbench.py --throughput [--activation relu] [--batch 500]

DIR holds the unpacked binary version of CIFAR-10. Prints one JSON object.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WIDTHS = (64, 256, 256)


class Network(nn.Module):
    """Whitening, three blocks of two convolutions, ten logits."""

    def __init__(self, activation: str, scaling: float = 1 / 9) -> None:
        super().__init__()
        act = {"gelu": nn.GELU, "relu": nn.ReLU}[activation]
        self.scaling = scaling
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad = False
        parts: list[nn.Module] = [act()]
        before = 24
        for width in WIDTHS:
            for step in (1, 2):
                convolution = nn.Conv2d(before, width, 3, padding=1, bias=False)
                nn.init.dirac_(convolution.weight.data[:before])
                parts.append(convolution)
                if step == 1:
                    parts.append(nn.MaxPool2d(2))
                norm = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
                norm.weight.requires_grad = False
                parts += [norm, act()]
                before = width
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(WIDTHS[-1], 10, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of normalised ``(N, 3, 32, 32)`` images."""
        maps = self.body(self.whitening(images))
        return self.head(functional.max_pool2d(maps, 3).flatten(1)) * self.scaling

    def whiten(self, images: torch.Tensor) -> None:
        """Set the first convolution from the patches of normalised images."""
        patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / torch.sqrt(values + 5e-4)).T.reshape(12, 3, 2, 2)
        self.whitening.weight.data = torch.cat([filters, -filters]).contiguous()
        self.whitening.bias.data.zero_()


def load(folder: Path, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised images and labels from binary files."""
    files = [path for name in names for path in sorted(folder.rglob(name))]
    if not files:
        raise SystemExit(f"no {names[0]} under {folder}: give the unpacked binary version")
    raw = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, 3073) for path in files])
    pixels = torch.from_numpy(raw[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255)
    images = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    labels = torch.from_numpy(raw[:, 0].astype(np.int64))
    return images.to(memory_format=torch.channels_last), labels


def crops(images: torch.Tensor, by: int) -> torch.Tensor:
    """Return each image moved by up to ``by`` pixels, mirrored at the edges."""
    padded = functional.pad(images, (by,) * 4, "reflect")
    moves = torch.randint(2 * by + 1, (2, len(images)))
    out = torch.empty_like(images)
    for row in range(2 * by + 1):
        for column in range(2 * by + 1):
            chosen = (moves[0] == row) & (moves[1] == column)
            out[chosen] = padded[chosen, :, row : row + 32, column : column + 32]
    return out


def predict(model: Network, images: torch.Tensor, views: bool) -> torch.Tensor:
    """Return logits; with ``views`` the mean over mirror images and three crops."""
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):

        def one(batch: torch.Tensor) -> torch.Tensor:
            return torch.cat([model(part).float() for part in batch.split(500)])

        def both(batch: torch.Tensor) -> torch.Tensor:
            return (one(batch) + one(batch.flip(3))) / 2

        if not views:
            return one(images)
        padded = functional.pad(images, (1,) * 4, "reflect")
        moved = both(padded[:, :, :32, :32]) + both(padded[:, :, 2:, 2:])
        return both(images) / 2 + moved / 4


def groups(model: Network, rate: float, decay: float) -> list[dict]:
    """Return parameter groups: biases of normalisation learn 64 times as fast."""
    fast = [p for name, p in model.body.named_parameters() if p.requires_grad and p.ndim == 1]
    slow = [p for p in model.parameters() if p.requires_grad and p.ndim != 1]
    slow.append(model.whitening.bias)
    return [
        {"params": fast, "lr": 64 * rate, "weight_decay": decay / (64 * rate)},
        {"params": slow, "lr": rate, "weight_decay": decay / rate},
    ]


def train(folder: Path, epochs: float, seed: int) -> dict:
    """Train by the recipe on all 50,000 training images; judge on the test images."""
    torch.manual_seed(seed)
    images, labels = load(folder, ["data_batch_*.bin"])
    batch, per_epoch = 1024, len(images) // 1024
    steps = math.ceil(epochs * per_epoch)
    model = Network("gelu").to(memory_format=torch.channels_last)
    model.whiten(images[:5000].contiguous())
    scale = 1024 * (1 + 1 / (1 - 0.85))
    rate, decay = 11.5 / scale, 0.0153 * batch / scale
    optimizer = torch.optim.SGD(groups(model, rate, decay), momentum=0.85, nesterov=True)

    def factor(step: int) -> float:
        peak = int(0.23 * steps)
        if step < peak:
            return 0.2 + 0.8 * step / peak
        return 1 + (0.07 - 1) * (step - peak) / (steps - peak)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    slow = {name: value.clone() for name, value in model.state_dict().items()}
    mirrored = torch.rand(len(images)) < 0.5
    step, started = 0, time.perf_counter()
    for epoch in range(math.ceil(epochs)):
        model.whitening.bias.requires_grad = epoch < 3
        for chosen in torch.randperm(len(images)).split(batch)[:per_epoch]:
            if step == steps:
                break
            mirror = (mirrored[chosen] ^ (epoch % 2 == 1)).view(-1, 1, 1, 1)
            inputs = torch.where(mirror, images[chosen].flip(3), images[chosen])
            inputs = crops(inputs, 2).contiguous(memory_format=torch.channels_last)
            model.train()
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(inputs)
            loss = functional.cross_entropy(
                outputs.float(), labels[chosen], label_smoothing=0.2, reduction="sum"
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 5 == 0 or step == steps:
                keep = 0.95**5 * (step / steps) ** 3
                for name, value in model.state_dict().items():
                    if value.is_floating_point():
                        slow[name].lerp_(value, 1 - keep)
                        value.copy_(slow[name])
        print(f"epoch {epoch + 1}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    seconds = time.perf_counter() - started
    tests, answers = load(folder, ["test_batch.bin"])
    scores = {
        key: (predict(model, tests, views).argmax(1) == answers).float().mean().item()
        for key, views in (("accuracy", False), ("accuracy_crops", True))
    }
    return {"recipe": "airbench94", "seed": seed, "epochs": epochs, "seconds": seconds, **scores}


def throughput(activation: str, batch: int, steps: int) -> dict:
    """Return the images a second of training steps on random images, the median of ``steps``."""
    torch.manual_seed(0)
    model = Network(activation).to(memory_format=torch.channels_last)
    model.whitening.bias.requires_grad = False
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.85, nesterov=True)
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))
    seconds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images)
        loss = functional.cross_entropy(outputs.float(), labels, label_smoothing=0.2)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return {
        "network": f"PyTorch, {activation}",
        "images_per_second": batch / statistics.median(seconds[2:]),
    }


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--throughput", action="store_true")
    parser.add_argument("--activation", default="gelu", choices=("gelu", "relu"))
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--epochs", type=float, default=9.9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.throughput:
        found = throughput(options.activation, options.batch, options.steps)
    elif options.folder:
        found = train(options.folder, options.epochs, options.seed)
    else:
        parser.error("give DIR or --throughput")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**found, "peak_memory_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
