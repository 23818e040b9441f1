import json

import keras
import numpy as np
import pytest

from cifar_utils import keys, optimizers, recipes
from cifar_utils.errors import ParameterError


def rates(steps, **options):
    schedule = recipes.schedule(recipes.Recipe(epochs=1, learning_rate=0.1, **options), steps)
    return [float(schedule(step)) for step in range(steps + 1)]


def test_cosine_climbs_and_comes_down_to_the_final_share():
    found = rates(100, warmup=0.2, final=0.1)
    np.testing.assert_allclose(found[:21], np.linspace(0, 0.1, 21), atol=1e-7)
    assert found[60] == pytest.approx((0.1 + 0.01) / 2, rel=1e-4)
    assert found[100] == pytest.approx(0.01, rel=1e-4)


def test_one_cycle_is_two_straight_lines():
    found = rates(50, schedule="one_cycle", warmup=0.2, final=0.1)
    np.testing.assert_allclose(found[:11], np.linspace(0, 0.1, 11), atol=1e-7)
    np.testing.assert_allclose(found[10:], np.linspace(0.1, 0.01, 41), rtol=1e-5)


def test_constant_stays_after_its_warmup():
    assert rates(10, schedule="constant", warmup=0) == pytest.approx([0.1] * 11)
    assert rates(10, schedule="constant", warmup=0.2) == pytest.approx([0, 0.05] + [0.1] * 9)


@pytest.mark.parametrize("name", recipes.OPTIMIZERS)
def test_every_optimizer_takes_the_schedule(name):
    recipe = recipes.Recipe(epochs=1, optimizer=name, schedule="one_cycle", learning_rate=0.1)
    images = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    model = keras.Model(images, keras.layers.Dense(10)(x))
    model.compile(recipes.optimizer(recipe, 10), recipes.loss(recipe))
    before = model.get_weights()[0]
    for _ in range(2):  # the first step has rate zero
        model.train_on_batch(np.ones((4, 8, 8, 3), np.float32), np.eye(10)[[0, 1, 2, 3]])
    assert np.isfinite(model.get_weights()[0]).all()
    assert (model.get_weights()[0] != before).any()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * 8 / 10)


def test_a_model_saved_with_its_optimizer_loads_again(tmp_path):
    recipe = recipes.Recipe(epochs=1, schedule="one_cycle", warmup=0.3)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(10)])
    model.compile(recipes.optimizer(recipe, 10), recipes.loss(recipe))
    model.save(tmp_path / "model.keras")
    schedule = keras.models.load_model(tmp_path / "model.keras").optimizer._learning_rate
    expected = recipes.schedule(recipe, 10)
    assert [float(schedule(step)) for step in range(11)] == [
        float(expected(step)) for step in range(11)
    ]


def test_adamw_without_decay_is_adam():
    kinds = {"adam": optimizers.Adam, "adamw": optimizers.AdamW}
    for name, kind in kinds.items():
        found = recipes.optimizer(recipes.Recipe(epochs=1, optimizer=name, schedule="constant"), 5)
        assert type(found) is kind
    weights = []
    for name in kinds:
        variable = keras.Variable(np.linspace(-1, 1, 5, dtype=np.float32))
        found = recipes.optimizer(recipes.Recipe(epochs=1, optimizer=name, warmup=0), 5)
        for step in range(3):
            found.apply([np.linspace(0, step, 5, dtype=np.float32)], [variable])
        weights.append(keras.ops.convert_to_numpy(variable))
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "sgd"])
def test_weight_decay_is_decoupled_from_the_gradient(name):
    variable = keras.Variable(np.ones(3, np.float32))
    recipe = recipes.Recipe(
        epochs=1, optimizer=name, schedule="constant", warmup=0, learning_rate=0.1, weight_decay=0.5
    )
    recipes.optimizer(recipe, 10).apply([np.zeros(3, np.float32)], [variable])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), 0.95, rtol=1e-5)


def test_both_losses_agree_and_smoothing_raises_the_categorical_one():
    logits = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    labels = np.arange(6)
    categorical = recipes.loss(recipes.Recipe(epochs=1))(np.eye(10)[labels], logits)
    sparse = recipes.loss(recipes.Recipe(epochs=1, loss="sparse"))(labels, logits)
    assert float(categorical) == pytest.approx(float(sparse), rel=1e-5)
    smooth = recipes.loss(recipes.Recipe(epochs=1, label_smoothing=0.2))
    certain = 20 * np.eye(10, dtype=np.float32)[labels]
    assert float(smooth(np.eye(10)[labels], certain)) == pytest.approx(0.2 * 0.9 * 20, rel=1e-3)


def test_sizes_say_the_side_of_every_epoch():
    recipe = recipes.Recipe(epochs=10, sizes=((0.5, 24), (0.8, 28)))
    assert [recipe.side(epoch) for epoch in range(10)] == [24] * 5 + [28] * 3 + [32] * 2
    assert recipes.Recipe(epochs=3).side(0) == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"epochs": 2.5}, "epochs is 2.5; expected 1 or more, a whole number"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"patience": 0}, "patience is 0; expected 1 or more"),
        ({"learning_rate": 0.0}, "expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected more than 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"warmup": 1.0}, "warmup is 1.0; expected 0 to below 1"),
        ({"momentum": 1}, "momentum is 1; expected 0 to below 1"),
        ({"final": -0.1}, "final is -0.1; expected 0 to 1"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001; expected 0 or more"),
        ({"weight_decay": 1e-4}, "adam has none; choose adamw, or"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"adversarial": 0.03}, "adversarial is 0.03; expected 0, or 1 to 255 grey levels"),
        ({"augmentation": "flipp"}, "did you mean 'flip'"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'; did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"loss": "spars"}, "did you mean 'sparse'"),
        ({"averaging": "swa"}, "known: none, ema, lookahead"),
        ({"precision": "float16"}, "known: auto, float32, mixed_bfloat16, mixed_float16"),
        ({"loss": "sparse", "label_smoothing": 0.1}, "knows no soft labels"),
        ({"loss": "sparse", "augmentation": "mixup"}, "knows no soft labels"),
        ({"sizes": ((0.8, 24), (0.5, 28))}, "expected pairs of a share of the epochs, growing"),
        ({"sizes": ((0.5, 40),)}, "a side of 8 to 32 pixels"),
        ({"sizes": (0.5, 24)}, "expected pairs"),
        ({"rates": (("conv5", 0.0),)}, "a factor above 0"),
        ({"rates": ("conv5", 0.5)}, "expected pairs of the beginning of layers' names"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        recipes.Recipe(**{"epochs": 1, **options})


PLAN = recipes.Plan(
    "baseline_cnn",
    recipes.Recipe(epochs=3, learning_rate=0.01, sizes=((0.5, 24),), rates=(("block1", 0.1),)),
    {"width": 8, "activation": "relu"},
)


@pytest.mark.parametrize("plan", [*recipes.PLANS.values(), PLAN])
def test_a_recipe_goes_through_its_file_unchanged(plan, tmp_path):
    path = tmp_path / "recipe.json"
    recipes.write(path, plan)
    assert recipes.read(path) == plan


@pytest.mark.parametrize("name", recipes.PLANS)
def test_a_plan_has_a_name_and_builds_its_network(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = recipes.read(name)
    assert plan == recipes.PLANS[name]
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    assert plan.build(images)(images).shape == (4, 10)


def test_a_file_goes_before_a_plan_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes.write(tmp_path / "long", PLAN)
    assert recipes.read("long") == PLAN


def test_the_command_knows_all_plans():
    assert tuple(recipes.PLANS) == keys.PLANS


def test_a_recipes_file_says_where_it_comes_from_and_builds_the_network(tmp_path):
    path = tmp_path / "folder" / "recipe.json"
    recipes.write(path, PLAN, study="mine", validation_accuracy=0.5)
    assert recipes.read(path) == PLAN
    assert recipes.read(str(path)).build().get_layer("block1_conv1").filters == 8
    assert json.loads(path.read_text())["found"]["study"] == "mine"


def test_a_recipe_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "recipe.json"
    recipes.write(path, PLAN)
    with pytest.raises(TypeError):
        recipes.write(path, PLAN, study=object())
    assert recipes.read(path) == PLAN


def test_fields_that_an_older_file_lacks_are_as_usual(tmp_path):
    path = tmp_path / "recipe.json"
    recipes.write(path, PLAN)
    content = json.loads(path.read_text())
    del content["recipe"]["schedule"], content["found"]
    path.write_text(json.dumps(content))
    assert recipes.read(path) == PLAN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "2"}, "is not a recipe: .*its format is '2'"),
        ({"model": "baselin_cnn"}, "unknown model 'baselin_cnn'; did you mean 'baseline_cnn'"),
        ({"model": ["a"]}, "is not a recipe"),
        ({"options": {"widht": 3}}, "baseline_cnn has no option 'widht'; did you mean 'width'"),
        ({"options": None}, "is not a recipe"),
        ({"recipe": {"epochs": 1, "rate": 2}}, "unknown 'rate'"),
        ({"recipe": {"epochs": 0}}, "epochs is 0"),
        ({"recipe": {}}, "is not a recipe: .*epochs"),
        ({"recipe": {"epochs": 1, "sizes": 3}}, "is not a recipe"),
        ({"recipe": {"epochs": 1, "learning_rate": "fast"}}, "learning_rate is 'fast'"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "recipe.json"
    recipes.write(path, PLAN)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ParameterError, match=r"recipe\.json.*" + message):
        recipes.read(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00"])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ParameterError, match=r"recipe\.json is not a recipe"):
        recipes.read(tmp_path / "recipe.json")
    with pytest.raises(ParameterError, match="does not exist; expected a recipe that cifar tune"):
        recipes.read(tmp_path / "gone.json")
