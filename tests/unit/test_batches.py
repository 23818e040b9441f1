import numpy as np
import pytest

from cifar_utils import augment, batches, transfer
from cifar_utils.data import Split
from cifar_utils.errors import DataError
from tests.unit.trainable import coloured, small_model


def made(**options):
    split = coloured(70)
    return batches.Batches(split.images, split.labels, 32, **options)


def test_batches_cover_every_example_once_an_epoch():
    found = made(policy=augment.Policy(), seed=3)
    assert [len(found[i][0]) for i in range(len(found))] == [32, 32, 6]
    means = np.concatenate([found[i][0].mean(axis=(1, 2, 3)) for i in range(len(found))])
    np.testing.assert_allclose(np.sort(means), np.sort(coloured(70).images.mean(axis=(1, 2, 3))))


def test_batches_keep_pixels_uint8_and_targets_one_hot():
    inputs, targets = made(policy=augment.get("strong"))[0]
    assert inputs.dtype == np.uint8
    assert targets.shape == (32, 10)
    assert targets.dtype == np.float32


def test_sparse_batches_have_the_labels_of_their_images():
    inputs, targets = made(policy=augment.get("flip"), sparse=True, seed=1)[0]
    np.testing.assert_array_equal(targets, inputs.mean(axis=(1, 2, 3)) // 25)


def test_a_batch_depends_on_seed_epoch_and_place_only():
    first, second = (made(policy=augment.get("strong"), seed=5) for _ in range(2))
    for _ in range(len(second)):
        second[0]
    np.testing.assert_array_equal(first[1][0], second[1][0])
    second.start(1)
    assert (first[1][0] != second[1][0]).any()
    first.start(1)
    np.testing.assert_array_equal(first[1][0], second[1][0])
    other = made(policy=augment.get("strong"), seed=6)
    other.start(1)
    assert (first[1][0] != other[1][0]).any()


def test_validation_batches_are_neither_shuffled_nor_changed():
    split = coloured(70)
    found = made()
    found.start(1)
    np.testing.assert_array_equal(found[1][0], split.images[32:64])
    np.testing.assert_array_equal(found[1][1].argmax(axis=1), split.labels[32:64])


@pytest.mark.parametrize("side", [16, 24, 28])
def test_smaller_images_are_those_of_an_antialiased_resize(side):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    small = batches.resized(images, side)
    assert small.dtype == np.uint8
    assert small.shape == (4, side, side, 3)
    reference = np.stack([np.asarray(pillow(image, side)) for image in images]).astype(int)
    assert np.abs(small.astype(int) - reference).max() <= 1


def pillow(image, side):
    from PIL import Image

    return Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)


def test_images_of_the_right_size_are_left_as_they_are():
    images = coloured(3).images
    np.testing.assert_array_equal(batches.resized(images, 32), images)


IMAGES, LABELS = coloured(20).images, coloured(20).labels


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            IMAGES / 255,
            LABELS,
            r"float64 \(20, 32, 32, 3\); .* takes uint8 \(N, 32, 32, 3\); pixel",
        ),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, r"\(20, 3, 32, 32\); .* takes uint8 \(N, 32, 32, 3"),
        (IMAGES[0], LABELS[:1], r"are uint8 \(32, 32, 3\)"),
        (IMAGES, LABELS[:19], r"labels are int64 \(19,\); expected .* \(20,\)"),
        (IMAGES, np.eye(10, dtype=int)[LABELS], r"labels are int64 \(20, 10\)"),
        (IMAGES, LABELS.astype(float), "labels are float64"),
        (IMAGES, LABELS + 1, "labels go from 1 to 10; expected 0 to 9"),
        (IMAGES, LABELS - 1, "labels go from -1 to 8"),
        (IMAGES[:0], LABELS[:0], "training split is empty"),
    ],
)
def test_what_the_model_cannot_learn_from_is_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        batches.check(Split(images, labels), small_model(), "training")


def test_features_of_the_right_length_may_be_of_any_float():
    head = transfer.head()
    for dtype in (np.float16, np.float32):
        batches.check(Split(np.zeros((3, 2048), dtype), np.arange(3)), head, "training")
    with pytest.raises(DataError, match=r"float32 \(3, 512\); .* takes float32 \(N, 2048\)$"):
        batches.check(Split(np.zeros((3, 512), np.float32), np.arange(3)), head, "training")
    with pytest.raises(DataError, match="are uint8"):
        batches.check(Split(np.zeros((3, 2048), np.uint8), np.arange(3)), head, "training")


def test_images_of_any_size_suit_a_model_without_one():
    batches.check(coloured(20), small_model(None), "training")
