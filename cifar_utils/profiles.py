"""How much of everything a run does: the one place where a notebook's numbers come from."""

import os
from dataclasses import dataclass

from cifar_utils import runtime
from cifar_utils.errors import ParameterError, nearest


@dataclass(frozen=True)
class Profile:
    """The numbers of one run, from image counts to epochs.

    Attributes:
        name: ``smoke``, ``cpu`` or ``gpu``.
        train_images: Training images used, None for all.
        validation_images: Validation images used, None for all.
        test_images: Test images used, None for all.
        synthetic_images: Size of the synthetic set, if that is the data (train, validation, test).
        batch_size: Images a training step.
        cnn_epochs: Epochs for ``baseline_cnn`` in notebooks 02 and 03.
        trial_images: Training images in the experiments of notebooks 02, 03 and 07.
        trial_epochs: Epochs for ``baseline_cnn`` there.
        trial_batch_size: Images a training step of ``baseline_cnn`` there.
        trials: Most variants in each of these experiments, and architectures in notebook 07, None
            for all.
        augmentation_seeds: Seeds that each augmentation is tried with.
        fast_epochs: Epochs for ``fast_cnn``.
        fast_batch_size: Images a training step of ``fast_cnn``.
        ablation_images: Training images where ideas of the fast recipe are taken away.
        ablation_epochs: Epochs there.
        map_images: Training images drawn on the map of notebook 01.
        patch_filters: Size of the quick classifier of notebook 01, see ``patches.network``.
        preprocessing_images: Training images for each kind of preprocessing in notebook 01.
        probe_images: Training images in the small comparisons of notebook 04.
        probe_sizes: Input resolutions compared in notebook 04, in pixels.
        resnet_size: Input resolution of the ResNet50 models, in pixels.
        head_epochs: Epochs for a head on frozen features.
        finetune_epochs: Most epochs of fine-tuning; early stopping may end it sooner.
        finetune_from: First ResNet50 stage that is unfrozen, ``conv2`` to ``conv5``.
        robustness_images: Test images that notebook 06 corrupts and attacks.
        severities: Of the corruptions there, 1 to 5.
        ensemble_members: ``fast_cnn`` trained in notebook 08, beside that of notebook 03.
        ensemble_epochs: Epochs for each of them.
        ensemble_trial_members: Members of the small ensembles compared there.
        ensemble_trial_epochs: Epochs for each of those.
        student_epochs: Epochs for the student that learns from the ensemble.
        tuning_trials: Trials of the study in notebook 07.
        folds: Of the cross-validation there.
    """

    name: str
    train_images: int | None
    validation_images: int | None
    test_images: int | None
    synthetic_images: tuple[int, int, int]
    batch_size: int
    cnn_epochs: int
    trial_images: int
    trial_epochs: int
    trial_batch_size: int
    trials: int | None
    augmentation_seeds: int
    fast_epochs: int
    fast_batch_size: int
    ablation_images: int
    ablation_epochs: int
    map_images: int
    patch_filters: int
    preprocessing_images: int
    probe_images: int
    probe_sizes: tuple[int, ...]
    resnet_size: int
    head_epochs: int
    finetune_epochs: int
    finetune_from: str
    robustness_images: int
    severities: tuple[int, ...]
    ensemble_members: int
    ensemble_epochs: int
    ensemble_trial_members: int
    ensemble_trial_epochs: int
    student_epochs: int
    tuning_trials: int
    folds: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            train_images=1400,
            validation_images=300,
            test_images=300,
            synthetic_images=(1400, 300, 300),
            batch_size=32,
            cnn_epochs=5,
            trial_images=150,
            trial_epochs=10,
            trial_batch_size=10,
            trials=2,
            augmentation_seeds=1,
            fast_epochs=2,
            fast_batch_size=50,
            ablation_images=600,
            ablation_epochs=1,
            map_images=500,
            patch_filters=96,
            preprocessing_images=500,
            probe_images=200,
            probe_sizes=(32, 64),
            resnet_size=32,
            head_epochs=5,
            finetune_epochs=1,
            finetune_from="conv5",
            robustness_images=60,
            severities=(1, 5),
            ensemble_members=1,
            ensemble_epochs=1,
            ensemble_trial_members=2,
            ensemble_trial_epochs=4,
            student_epochs=2,
            tuning_trials=3,
            folds=2,
        ),
        Profile(
            name="cpu",
            train_images=None,
            validation_images=None,
            test_images=None,
            synthetic_images=(12_000, 2_000, 2_000),
            batch_size=128,
            cnn_epochs=10,
            trial_images=2000,
            trial_epochs=12,
            trial_batch_size=32,
            trials=None,
            augmentation_seeds=1,
            fast_epochs=8,
            fast_batch_size=1000,
            ablation_images=5000,
            ablation_epochs=6,
            map_images=2000,
            patch_filters=256,
            preprocessing_images=5000,
            probe_images=2000,
            probe_sizes=(32, 64, 96),
            resnet_size=64,
            head_epochs=12,
            finetune_epochs=5,
            finetune_from="conv2",
            robustness_images=500,
            severities=(1, 3, 5),
            ensemble_members=2,
            ensemble_epochs=8,
            ensemble_trial_members=3,
            ensemble_trial_epochs=12,
            student_epochs=8,
            tuning_trials=20,
            folds=5,
        ),
        Profile(
            name="gpu",
            train_images=None,
            validation_images=None,
            test_images=None,
            synthetic_images=(45_000, 5_000, 10_000),
            batch_size=128,
            cnn_epochs=40,
            trial_images=10_000,
            trial_epochs=15,
            trial_batch_size=64,
            trials=None,
            augmentation_seeds=3,
            fast_epochs=16,
            fast_batch_size=1000,
            ablation_images=10_000,
            ablation_epochs=10,
            map_images=4000,
            patch_filters=512,
            preprocessing_images=20_000,
            probe_images=10_000,
            probe_sizes=(32, 64, 128, 224),
            resnet_size=128,
            head_epochs=30,
            finetune_epochs=10,
            finetune_from="conv2",
            robustness_images=2000,
            severities=(1, 2, 3, 4, 5),
            ensemble_members=4,
            ensemble_epochs=16,
            ensemble_trial_members=5,
            ensemble_trial_epochs=15,
            student_epochs=24,
            tuning_trials=50,
            folds=5,
        ),
    )
}


def resolve(name: str = "auto") -> Profile:
    """Return the profile called ``name`` (notebook 01 introduces it).

    Args:
        name: ``smoke``, ``cpu``, ``gpu``, or ``auto``: what ``CIFAR_UTILS_PROFILE`` says, else
            ``gpu`` where there is a GPU the backend can use, else ``smoke``.

    Raises:
        ParameterError: No profile has that name.
    """
    if name == "auto":
        name = os.environ.get("CIFAR_UTILS_PROFILE") or ("gpu" if runtime.has_gpu() else "smoke")
    if name not in PROFILES:
        raise ParameterError(f"unknown profile {name!r}{nearest(name, ['auto', *PROFILES])}")
    return PROFILES[name]
