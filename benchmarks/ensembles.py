"""What do several ``fast_cnn`` gain over the best one, and how much of it does a student keep?

usage: python -m benchmarks.ensembles DIR [--members 5] [--epochs 8] [--student-epochs 12]
                                      [--images N] [--seed 0] [--temperature 1] [--hard 0.1]
                                      [--work FOLDER]

DIR holds CIFAR-10, an archive or unpacked. Members learn from the training split with one seed
each, and vote by the mean of their probabilities, calibrated one by one on validation; the student
learns from their answers, and one more network for as long from labels alone. Prints a Markdown
table: validation accuracy, by which to choose, and of the test set paired differences from the best
single member, chosen on validation, and from the member that is best on test, which nobody could
have chosen. All networks are kept in FOLDER as they finish, and a training that was killed
goes on after its last epoch, so the same command continues.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from cifar_utils import (
    data,
    distillation,
    ensemble,
    evaluation,
    members,
    models,
    profiles,
    recipes,
    runs,
    runtime,
)
from cifar_utils.data import Split
from cifar_utils.recipes import Recipe

Trained = tuple[keras.Model, float]
"""A network and the seconds of its training."""


def kept(folder: Path, name: str, train: Callable[[Path], Trained]) -> Trained:
    """Return what ``train`` gives, from the folder if it is there.

    Args:
        folder: Where networks are kept.
        name: Of the network, different for what is trained in different ways.
        train: Called with a folder for the state of the training.
    """
    path, facts = folder / f"{name}.keras", folder / f"{name}.json"
    if not facts.is_file():
        network, seconds = train(folder / f"{name}.state")
        models.save(network, path)
        runs.write_json(facts, {"seconds": seconds})
    return models.load(path), runs.read_json(facts)["seconds"]


def member(state: Path, train: Split, recipe: Recipe, seed: int) -> Trained:
    """Return one more network of the fast recipe."""
    build = functools.partial(models.build, "fast_cnn", train.images)
    found = members.independent(build, train, recipe, [seed], backup=state)
    return found.models[0], found.seconds[0]


def student(
    state: Path, train: Split, teacher: keras.Model, recipe: Recipe, seed: int, softness: dict
) -> Trained:
    """Return a network that learned from the teacher's answers."""
    logits = evaluation.predict_logits(teacher, train.images, views="mirror")
    keras.utils.set_random_seed(seed)
    network = models.build("fast_cnn", train.images)
    fitted = distillation.distil(
        network, train, logits, None, recipe, seed=seed, backup=state, **softness
    )
    return network, fitted.seconds


def signed(logits: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> str:
    """Return a paired difference in points with its interval and McNemar's p."""
    gap = evaluation.difference(logits, reference, labels)
    p = evaluation.mcnemar(logits, reference, labels)
    low, high = 100 * gap.low, 100 * gap.high
    return f"{100 * gap.value:+.2f} [{low:+.2f}, {high:+.2f}], p = {p:.2g}"


def main() -> None:
    """Train what is missing, then print the table."""
    usual = profiles.resolve("cpu")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=usual.fast_epochs)
    parser.add_argument("--student-epochs", type=int)
    parser.add_argument("--images", type=int, help="training images; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--hard", type=float, default=0.1)
    parser.add_argument("--work", type=Path, default=Path("artifacts/benchmark_ensembles"))
    options = parser.parse_args()
    lessons = options.student_epochs or -(-options.epochs * 3 // 2)

    session = runtime.start(options.seed)
    dataset = data.load(options.folder, dataclasses.replace(usual, train_images=options.images))
    kind, identity = dataset.provenance.kind, dataset.provenance.fingerprint[:8]
    count = len(dataset.train)
    folder = options.work / f"{identity}-{count}-images-{options.epochs}-epochs"
    # Smaller batches in the same measure as the images are fewer, so that steps stay as many.
    share = count / dataset.provenance.counts["train"]
    recipe = dataclasses.replace(
        recipes.FAST, epochs=options.epochs, batch_size=round(usual.fast_batch_size * share)
    )
    print(f"{session}; {kind} data, {count} training images, {options.epochs} epochs\n", flush=True)

    networks, seconds = {}, {}
    seeds = range(options.seed, options.seed + options.members)
    for seed in seeds:
        train = functools.partial(member, train=dataset.train, recipe=recipe, seed=seed)
        networks[f"seed {seed}"], seconds[f"seed {seed}"] = kept(folder, f"member_{seed}", train)
    judging = dataset.validation
    seen = {name: evaluation.predict_logits(one, judging.images) for name, one in networks.items()}
    combination = ensemble.fit_temperatures(list(seen.values()), judging.labels)
    whole = ensemble.assemble(list(networks.values()), combination)
    name = f"student_of_{seeds[0]}_to_{seeds[-1]}_{lessons}_epochs"
    train = functools.partial(
        student,
        train=dataset.train,
        teacher=whole,
        recipe=dataclasses.replace(recipe, epochs=lessons),
        seed=seeds.stop,
        softness={"temperature": options.temperature, "hard": options.hard},
    )
    name += f"_temperature_{options.temperature:g}_hard_{options.hard:g}"
    pupil, taught = kept(folder, name, train)
    train = functools.partial(
        member,
        train=dataset.train,
        recipe=dataclasses.replace(recipe, epochs=lessons),
        seed=seeds.stop,
    )
    longer, alone = kept(folder, f"member_{seeds.stop}_{lessons}_epochs", train)

    title, other = f"student, {lessons} epochs", f"no teacher, {lessons} epochs"
    others = {"ensemble": whole, other: longer, title: pupil}
    judged = networks | others
    all_members = sum(seconds.values())
    seconds |= {"ensemble": all_members, other: alone, title: all_members + taught}
    images, labels = dataset.test.images, dataset.test.labels
    test = {name: evaluation.predict_logits(each, images) for name, each in judged.items()}
    seen |= {name: evaluation.predict_logits(each, judging.images) for name, each in others.items()}

    def best(logits: dict[str, np.ndarray], truth: np.ndarray) -> str:
        return max(networks, key=lambda name: evaluation.accuracy(logits[name], truth).value)

    chosen = best(seen, judging.labels)
    highest = best(test, labels)
    print(
        f"| model | validation accuracy, {kind}, n = {len(judging):,} | test accuracy, n = "
        f"{len(labels):,} | minus {chosen}, best on validation | minus {highest}, best on test "
        "| training | one picture |\n"
        "|---|---|---|---|---|--:|--:|"
    )
    for name, network in judged.items():
        gaps = [
            "" if name == other else signed(test[name], test[other], labels)
            for other in (chosen, highest)
        ]
        wait = 1e3 * evaluation.latency(network, dataset.test.images[0])
        print(
            f"| {name} | {evaluation.accuracy(seen[name], judging.labels)} "
            f"| {evaluation.accuracy(test[name], labels)} | {' | '.join(gaps)} "
            f"| {seconds[name]:.0f} s | {wait:.1f} ms |"
        )
    for reference in dict.fromkeys((chosen, highest)):
        gains = [
            evaluation.difference(test[name], test[reference], labels).value
            for name in (title, "ensemble")
        ]
        share = f"{gains[0] / gains[1]:.0%}" if min(gains) > 0 else "none"
        print(f"\nShare of the gain over {reference} that the student keeps: {share}")
    print(f"\nThe teacher's share in it: {signed(test[title], test[other], labels)} points")


if __name__ == "__main__":
    main()
