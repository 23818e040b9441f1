"""Known architectures, sized for 32x32 images (notebook 07 introduces them).

Each takes uint8 ``(N, 32, 32, 3)`` RGB images and gives float32 ``(N, 10)`` logits. They keep what
their papers are about and are narrower and less deep than the originals: 20 to 120 million
multiply-adds an image, so that two cores can train any of them. In each, ``width`` is the channels
of the first stage, which all others follow, and ``dropout`` the share of features dropped before
the logits.
"""

import keras
from keras import layers

from cifar_utils import fused
from cifar_utils.data import CLASS_NAMES, IMAGE_SHAPE

PIXEL_MEAN = (125.3, 123.0, 113.9)
"""Mean of CIFAR-10's red, green and blue pixels, 0 to 255."""

PIXEL_STD = (63.0, 62.1, 66.7)
"""Their standard deviation."""


def logits(features: keras.KerasTensor) -> keras.KerasTensor:
    """Return ``(N, 10)`` float32 logits; float32 under every precision policy, so none overflow."""
    return layers.Dense(len(CLASS_NAMES), dtype="float32", name="logits")(features)


def normalized(images: keras.KerasTensor) -> keras.KerasTensor:
    """Return pixels with mean 0 and deviation 1 over CIFAR-10."""
    variance = [deviation**2 for deviation in PIXEL_STD]
    return layers.Normalization(mean=PIXEL_MEAN, variance=variance, name="normalization")(images)


def _open() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the images of a new network, as they come and normalised."""
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="images")
    return images, normalized(images)


def _close(
    images: keras.KerasTensor, maps: keras.KerasTensor, dropout: float, name: str
) -> keras.Model:
    """Return the network that ends in the mean of each map, dropout and logits."""
    x = layers.GlobalAveragePooling2D(name="pool")(maps)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(images, logits(x), name=name)


def _convolution(
    x: keras.KerasTensor, channels: int, size: int, name: str, strides: int = 1
) -> keras.KerasTensor:
    """Return a convolution without bias, which the normalisation beside it would take away."""
    return fused.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    # Keras's 0.99 needs hundreds of steps before validation gets along with it.
    return fused.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def _norm_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(name=f"{name}_relu")(_norm(x, name))


def _unit(
    x: keras.KerasTensor, channels: int, size: int, name: str, strides: int = 1
) -> keras.KerasTensor:
    """Return convolution, batch normalisation and ReLU."""
    return _norm_relu(_convolution(x, channels, size, name, strides), name)


def vgg(*, width: int = 32, dropout: float = 0.0) -> keras.Model:
    """Return thirteen 3x3 convolutions in five blocks, halved by max pooling: plain depth.

    The layout of VGG16 (Simonyan and Zisserman, arXiv 1409.1556) at half its width, with batch
    normalisation (arXiv 1502.03167) and a mean in place of two wide dense layers.
    """
    images, x = _open()
    for block, (depth, factor) in enumerate(((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)), start=1):
        for step in range(1, depth + 1):
            x = _unit(x, factor * width, 3, f"block{block}_{step}")
        if block < 5:
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return _close(images, x, dropout, "vgg")


def _inception(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """Return what 1x1, 3x3 and 5x5 convolutions and a pooling see of the same maps, side by side.

    Cheap 1x1 convolutions come before the wide ones; two 3x3 stand for 5x5 (arXiv 1512.00567).
    """
    narrow = _unit(x, width, 1, f"{name}_1x1")
    middle = _unit(_unit(x, width, 1, f"{name}_3x3_in"), 2 * width, 3, f"{name}_3x3")
    wide = _unit(x, width // 2, 1, f"{name}_5x5_in")
    wide = _unit(_unit(wide, width, 3, f"{name}_5x5_first"), width, 3, f"{name}_5x5")
    pooled = layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(x)
    pooled = _unit(pooled, width // 2, 1, f"{name}_pool_1x1")
    return layers.Concatenate(name=f"{name}_join")([narrow, middle, wide, pooled])


def inception(*, width: int = 32, dropout: float = 0.0) -> keras.Model:
    """Return modules that look at several sizes at once: GoogLeNet (arXiv 1409.4842), small.

    Six of its modules at three resolutions, with batch normalisation and without its classifiers at
    half depth.
    """
    images, x = _open()
    x = layers.MaxPooling2D(name="stem_pool")(_unit(x, 2 * width, 3, "stem"))
    for stage, (depth, factor) in enumerate(((2, 1), (3, 2), (1, 3)), start=1):
        for step in range(1, depth + 1):
            x = _inception(x, factor * width, f"stage{stage}_{step}")
        if stage < 3:
            x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    return _close(images, x, dropout, "inception")


def resnet(*, width: int = 16, dropout: float = 0.0) -> keras.Model:
    """Return ResNet-20: blocks that add to what they get (He et al., arXiv 1512.03385, 4.2).

    Three stages of three blocks of two 3x3 convolutions; where the number of channels changes, a
    1x1 convolution fits what is added (the paper's option B; it fills up with zeros).
    """
    images, x = _open()
    x = _unit(x, width, 3, "stem")
    for stage in range(3):
        for step in range(3):
            name, strides = f"stage{stage + 1}_{step + 1}", 1 + (stage > 0 and step == 0)
            branch = _unit(x, width << stage, 3, f"{name}_first", strides)
            branch = _norm(_convolution(branch, width << stage, 3, f"{name}_second"), name)
            if strides > 1:
                x = _norm(_convolution(x, width << stage, 1, f"{name}_fit", strides), f"{name}_fit")
            x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, branch]))
    return _close(images, x, dropout, "resnet")


def wide_resnet(*, width: int = 32, dropout: float = 0.0) -> keras.Model:
    """Return WRN-16-2: fewer and wider residual blocks (Zagoruyko, arXiv 1605.07146).

    Normalisation and ReLU come before each convolution, so that what is added passes through
    unchanged (arXiv 1603.05027). ``dropout`` is also between the two convolutions of a block, where
    the paper has it.
    """
    images, x = _open()
    x = _convolution(x, width // 2, 3, "stem")
    for stage in range(3):
        for step in range(2):
            name, strides = f"stage{stage + 1}_{step + 1}", 1 + (stage > 0 and step == 0)
            before = _norm_relu(x, f"{name}_first")
            branch = _convolution(before, width << stage, 3, f"{name}_first", strides)
            branch = _norm_relu(branch, f"{name}_second")
            if dropout:
                branch = layers.Dropout(dropout, name=f"{name}_dropout")(branch)
            branch = _convolution(branch, width << stage, 3, f"{name}_second")
            if step == 0:
                x = _convolution(before, width << stage, 1, f"{name}_fit", strides)
            x = layers.Add(name=f"{name}_add")([x, branch])
    return _close(images, _norm_relu(x, "last"), dropout, "wide_resnet")


def densenet(*, width: int = 16, dropout: float = 0.0) -> keras.Model:
    """Return DenseNet-BC: each layer sees what all before it made (Huang, arXiv 1608.06993).

    Three blocks of four layers, each a 1x1 convolution to four times the growth rate ``width`` and
    a 3x3 convolution to ``width`` new channels; between blocks, half of the channels and sides.
    """
    images, x = _open()
    x = _convolution(x, 2 * width, 3, "stem")
    for block in range(1, 4):
        for step in range(1, 5):
            name = f"block{block}_{step}"
            new = _convolution(_norm_relu(x, f"{name}_in"), 4 * width, 1, f"{name}_in")
            new = _convolution(_norm_relu(new, f"{name}_out"), width, 3, f"{name}_out")
            x = layers.Concatenate(name=f"{name}_join")([x, new])
        if block < 3:
            x = _convolution(_norm_relu(x, f"block{block}"), x.shape[-1] // 2, 1, f"block{block}")
            x = layers.AveragePooling2D(2, name=f"block{block}_pool")(x)
    return _close(images, _norm_relu(x, "last"), dropout, "densenet")


def _inverted(x: keras.KerasTensor, channels: int, name: str) -> keras.KerasTensor:
    """Return a block that widens, looks at each channel alone, and narrows again without a ReLU."""
    wide = _unit(x, 6 * x.shape[-1], 1, f"{name}_widen")
    depthwise = layers.DepthwiseConv2D(
        3, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )
    wide = _norm_relu(depthwise(wide), f"{name}_depthwise")
    narrow = _norm(_convolution(wide, channels, 1, f"{name}_narrow"), f"{name}_narrow")
    if channels != x.shape[-1]:
        return narrow
    return layers.Add(name=f"{name}_add")([x, narrow])


def mobilenet(*, width: int = 16, dropout: float = 0.0) -> keras.Model:
    """Return inverted residual blocks with depthwise convolutions: MobileNetV2 (arXiv 1801.04381).

    A depthwise convolution looks at places, a 1x1 convolution at channels; apart they need far
    fewer multiply-adds than together. Ten blocks at two resolutions, which pooling halves: a
    depthwise convolution with strides takes ten times as long in bfloat16 on a processor.
    """
    images, x = _open()
    x = _unit(x, 2 * width, 3, "stem")
    for stage, (depth, factor) in enumerate(((2, 1), (3, 2), (3, 4), (2, 6)), start=1):
        if stage in (1, 3):
            x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
        for step in range(1, depth + 1):
            x = _inverted(x, factor * width, f"stage{stage}_{step}")
    return _close(images, _unit(x, 16 * width, 1, "last"), dropout, "mobilenet")
