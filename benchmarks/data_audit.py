"""How good, and how quick, are the searches for near-duplicates and for wrong labels?

usage: python benchmarks/data_audit.py [DIR]

Prints Markdown tables: what is found of the faults planted in the synthetic set and, where DIR
holds CIFAR-10, of those planted in its training images; and what is found in DIR as it is.
"""

import argparse
import time

import numpy as np

from cifar_utils import (
    data,
    evaluation,
    label_noise,
    near_duplicates,
    patches,
    planted,
    runtime,
    synthetic,
)
from cifar_utils.data import Dataset, Split

FILTERS = 256


def with_faults(images: np.ndarray, labels: np.ndarray, provenance: data.Provenance) -> tuple:
    """Return a data set with planted faults, nine tenths of it train, and the faults' tables."""
    images, labels, faults = planted.plant(images, labels)
    counts = {"train": len(labels) * 9 // 10, "validation": 0, "test": 0}
    counts["validation"] = len(labels) - counts["train"]
    middle = counts["train"]
    dataset = Dataset(
        Split(images[:middle], labels[:middle]),
        Split(images[middle:], labels[middle:]),
        Split(images[:0], labels[:0]),
        provenance,
    )
    return dataset, faults.tables(np.arange(len(labels)), counts)


def measure_planted(name: str, dataset: Dataset, faults: dict) -> None:
    """Print what the searches find of the planted faults."""
    started = time.perf_counter()
    pairs = near_duplicates.find(dataset).pairs
    seconds = time.perf_counter() - started
    copies = faults["copies"]
    score = planted.score(pairs, copies)
    # What is found in real images beside the planted copies is mostly real.
    precision = f"{score['precision']:.3f}" if name.startswith("synthetic") else "not known"
    print(
        f"| {name} | near-duplicates | {len(copies)} | {score['recall']:.3f} | {precision} "
        f"| {seconds:.1f} s |"
    )
    started = time.perf_counter()
    suspects = label_noise.candidates(dataset, filters=FILTERS)
    seconds = time.perf_counter() - started
    wrong = faults["wrong"]
    first = planted.score(suspects.head(len(wrong)), wrong)
    print(
        f"| {name} | wrong labels, the first {len(wrong)} of the list | {len(wrong)} "
        f"| {first['recall']:.3f} | {first['precision']:.3f} | {seconds:.1f} s |"
    )
    issues = planted.score(suspects[suspects["issue"]], wrong)
    print(
        f"| {name} | wrong labels, all {suspects['issue'].sum()} that cleanlab suspects "
        f"| {len(wrong)} | {issues['recall']:.3f} | {issues['precision']:.3f} | |"
    )


def measure_kinds(name: str, dataset: Dataset, faults: dict) -> None:
    """Print the recall of each kind of copy."""
    pairs, copies = near_duplicates.find(dataset).pairs, faults["copies"]
    recalls = [
        f"{kind} {planted.score(pairs, group)['recall']:.2f}"
        for kind, group in copies.groupby("kind", sort=False)
    ]
    print(f"\nRecall by kind of copy, {name}: {', '.join(recalls)}.")


def measure_real(dataset: Dataset) -> None:
    """Print what is in the real images as they are."""
    started = time.perf_counter()
    pairs = near_duplicates.find(dataset).pairs
    seconds = time.perf_counter() - started
    groups = near_duplicates.groups(pairs)
    leaked = near_duplicates.leaked(pairs)
    total = sum(len(split) for split in dataset.splits().values())
    print(f"\nAs they are: {len(pairs):,} pairs among {total:,} images in {seconds:.0f} s,")
    print(f"in {len(groups):,} groups, the largest of {len(groups[0])} images;")
    print(f"{len(leaked)} test images have one in train or validation.")
    table = pairs.groupby(["split", "other_split"]).size()
    print("; ".join(f"{one} and {other}: {count:,}" for (one, other), count in table.items()))
    labels = {name: split.labels for name, split in dataset.splits().items()}
    same = [
        labels[row["split"]][row["index"]] == labels[row["other_split"]][row["other_index"]]
        for row in pairs.to_dict("records")
    ]
    print(f"{np.mean(same):.2%} of the pairs share a class ({len(same) - sum(same)} do not).")
    train, test = dataset.train, dataset.test
    logits = patches.quick_logits(train.images, train.labels, test.images, filters=FILTERS)
    seen = np.isin(np.arange(len(test)), leaked)
    for name, chosen in (("all", ~seen | seen), ("without these", ~seen), ("only these", seen)):
        found = evaluation.accuracy(logits[chosen], test.labels[chosen])
        print(f"Quick classifier, test images, {name}: {found}, n = {chosen.sum():,}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="DIR", nargs="?", help="an unpacked CIFAR-10 archive")
    folder = parser.parse_args().folder
    print(runtime.start(0))
    print("\n| images | search | planted | recall | precision | time |\n|---|---|---|---|---|---|")
    provenance = data.load("synthetic").provenance
    sets = {
        f"synthetic, {count:,}": with_faults(*synthetic.generate(count, seed=1), provenance)
        for count in (2_000, 10_000)
    }
    if folder:
        real = data.load(folder)
        learn = np.asarray(real.train.images), np.asarray(real.train.labels)
        sets[f"{real.provenance.kind}, train"] = with_faults(*learn, real.provenance)
    for name, (dataset, faults) in sets.items():
        measure_planted(name, dataset, faults)
    for name, (dataset, faults) in sets.items():
        measure_kinds(name, dataset, faults)
    if folder:
        measure_real(real)


if __name__ == "__main__":
    main()
