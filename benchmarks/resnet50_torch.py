"""ResNet50 with Keras's strides in PyTorch: what ``benchmarks/transfer.py`` is held against.

bfloat16, channels last. It needs NumPy and ``pip install torch==2.13.0``, and nothing of this
project, so that it can run in an environment of its own.

usage: python benchmarks/resnet50_torch.py features|finetune [--size 64] [--batch N] [--rounds 6]

Prints one JSON object.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BLOCKS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Channels, blocks and first stride of each stage."""


def unit(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution, which has a bias as in Keras, and its normalisation."""
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=1.001e-5))


class Block(nn.Module):
    """A bottleneck; the stride is that of its first convolution, as in Keras."""

    def __init__(self, inputs: int, channels: int, stride: int, first: bool) -> None:
        super().__init__()
        self.shortcut = unit(inputs, 4 * channels, 1, stride) if first else nn.Identity()
        self.one = unit(inputs, channels, 1, stride)
        self.two = unit(channels, channels, 3)
        self.three = unit(channels, 4 * channels, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``(N, 4 C, H, W)`` activations."""
        x = functional.relu(self.two(functional.relu(self.one(inputs))))
        return functional.relu(self.three(x) + self.shortcut(inputs))


class ResNet50(nn.Module):
    """From uint8 ``(N, 32, 32, 3)`` images to features, or to logits with a head."""

    def __init__(self, size: int, head: bool) -> None:
        super().__init__()
        self.size = size
        self.first = unit(3, 64, 7, 2)
        blocks, inputs = [], 64
        for channels, count, stride in BLOCKS:
            for place in range(count):
                blocks.append(Block(inputs, channels, 1 if place else stride, place == 0))
                inputs = 4 * channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.LayerNorm(2048), nn.Linear(2048, 10)) if head else None
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return float32 ``(N, 2048)`` features, or ``(N, 10)`` logits."""
        x = images.permute(0, 3, 1, 2).float()
        x = functional.interpolate(x, (self.size, self.size), mode="bilinear")
        x = x.flip(1) - self.mean
        if dtype is not None:
            x = x.to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        x = functional.max_pool2d(functional.relu(self.first(x)), 3, 2, 1)
        x = self.blocks(x).float().mean((2, 3))
        return x if self.head is None else self.head(x)


def timed(work: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of ``work`` after it ran twice."""
    seconds = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def features(size: int, batch: int, rounds: int) -> float:
    """Return images a second of the network in inference mode, its weights in bfloat16."""
    model = ResNet50(size, head=False).eval().to(memory_format=torch.channels_last)
    for part in (model.first, model.blocks):
        part.to(torch.bfloat16)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels)

    def work() -> np.ndarray:
        with torch.inference_mode():
            return model(images, torch.bfloat16).numpy()

    return batch / timed(work, rounds)


def finetune(size: int, batch: int, rounds: int) -> float:
    """Return images a second of training steps, batch normalisation frozen in inference mode."""
    model = ResNet50(size, head=True).eval().to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=1e-4, fused=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    labels = torch.from_numpy(generator.integers(0, 10, batch))

    def work() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(images)
        loss = functional.cross_entropy(outputs.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return batch / timed(work, rounds)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("features", "finetune"))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    measure = {"features": features, "finetune": finetune}[options.what]
    rate = measure(options.size, options.batch, options.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"images_per_second": rate, "peak_memory_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
