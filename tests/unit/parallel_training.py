"""Trains a small model and says what came of it, as one line of JSON; run by test_distribution.

usage: python parallel_training.py BACKEND DEVICES...

Each of DEVICES, a number or ``auto``, is a training from the same weights. Where several devices
train, there is one image more than they can share.
"""

import json
import os
import sys

IMAGES, BATCH, EPOCHS = 70, 16, 2


def two_devices(backend: str) -> None:
    """Have the backend find two processors."""
    os.environ |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if backend == "tensorflow":
        import tensorflow

        processor = tensorflow.config.list_physical_devices("CPU")[0]
        two = [tensorflow.config.LogicalDeviceConfiguration()] * 2
        tensorflow.config.set_logical_device_configuration(processor, two)
    elif "KERAS_DISTRIBUTION_JOB_ADDRESSES" not in os.environ:
        import jax

        jax.config.update("jax_num_cpu_devices", 2)


def main(backend: str, *trainings: str) -> None:
    two_devices(backend)
    shares = []
    if backend == "tensorflow":
        import tensorflow
    else:
        import jax

        assemble = jax.make_array_from_process_local_data

        def witness(*arguments):
            array = assemble(*arguments)
            parts = [(part.device.id, part.data.shape[0]) for part in array.addressable_shards]
            shares.append(sorted(parts))
            return array

        jax.make_array_from_process_local_data = witness

    import keras
    import numpy as np

    from cifar_utils import distribution, native, runtime

    class Images(keras.utils.PyDataset):
        def __init__(self, count: int, batch: int = BATCH) -> None:
            super().__init__()
            self._batch = batch
            generator = np.random.default_rng(0)
            self._inputs = generator.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
            self._targets = np.eye(10, dtype=np.float32)[np.arange(count) % 10]

        def __len__(self) -> int:
            return -(-len(self._inputs) // self._batch)

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(index * self._batch, (index + 1) * self._batch)
            return self._inputs[part], self._targets[part]

    class Witness(keras.layers.Layer):
        """Notes how many images each of TensorFlow's replicas gets to learn from."""

        def call(self, inputs, training=False):
            if backend == "tensorflow" and training:
                replica = tensorflow.distribute.get_replica_context().replica_id_in_sync_group
                tensorflow.numpy_function(
                    lambda *found: shares.append([int(each) for each in found]),
                    [replica, tensorflow.shape(inputs)[0]],
                    [],
                )
            return inputs

    found = []
    for devices in trainings:
        shares.clear()
        session = runtime.start(0, "float32", devices)
        inputs = keras.Input((8, 8, 3), dtype="uint8")
        x = Witness()(keras.layers.Rescaling(1 / 255)(inputs))
        x = keras.layers.Conv2D(8, 3)(x)
        normal = keras.layers.BatchNormalization()(x)
        if backend == "tensorflow":  # whose replicas have a mean and variance each
            normal = keras.layers.Add()([x, keras.layers.Rescaling(0.0)(normal)])
        x = keras.layers.Flatten()(keras.layers.Dropout(0.0)(normal))
        model = keras.Model(inputs, keras.layers.Dense(10)(x))
        metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
        model.compile(
            optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=metrics,
        )
        model.optimizer.build(model.trainable_variables)
        with distribution.spread(model, metrics) as callbacks:
            history = model.fit(
                native.feed(distribution.share(Images(IMAGES + (session.devices > 1)))),
                validation_data=native.feed(Images(37, distribution.judging_size(37, 500))),
                epochs=EPOCHS,
                shuffle=False,
                callbacks=callbacks,
                verbose=0,
            )
        # Outside, a model takes any number of images, and a call as well as ``predict``.
        images = Images(35)[2][0]
        logits = model.predict(images, verbose=0)
        called = keras.ops.convert_to_numpy(model(images))
        apart = [
            weight.path
            for weight in model.weights
            if len({each.numpy().tobytes() for each in getattr(weight.value, "values", ())}) > 1
        ]
        found.append(
            {
                "session": str(session),
                "history": history.history,
                "shares": list(shares),
                "logits": logits.tolist(),
                "apart": apart,
                "gap": float(np.abs(called - logits).max()),
            }
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
