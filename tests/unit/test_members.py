"""Ways to train members: samples and votes by hand, trainings of a tiny network."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_utils import batches, evaluation, members, models, recipes, supervision, training
from cifar_utils.data import Split
from cifar_utils.errors import ParameterError
from tests.unit.trainable import coloured, small_model, small_network

RECIPE = recipes.Recipe(epochs=2, batch_size=25, learning_rate=0.05)
TRAIN, VALIDATION = coloured(100), coloured(50, 1)


def weights(model):
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


def test_independent_members_are_trainings_with_other_seeds():
    found = members.independent(small_model, TRAIN, RECIPE, (3, 4, 3))
    first, second, again = map(weights, found.models)
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    assert found.combination.weights == pytest.approx((1 / 3,) * 3)
    assert len(found.seconds) == 3
    assert min(found.seconds) > 0


WAYS = {
    "independent": lambda **options: members.independent(
        small_model, TRAIN, RECIPE, (1, 2), **options
    ),
    "bagging": lambda **options: members.bagging(small_model, TRAIN, RECIPE, 2, seed=1, **options),
    "boosting": lambda **options: members.boosting(
        small_model, TRAIN, RECIPE, 2, seed=1, **options
    ),
    "snapshots": lambda **options: members.snapshots(
        small_network, TRAIN, RECIPE, 2, seed=1, **options
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_killed_training_of_members_trains_none_twice(tmp_path, monkeypatch, way):
    folder, fit, start, seeds = tmp_path / "backup", training.fit, batches.Batches.start, set()

    def killed(*arguments, seed, **options):
        if seed == 2:
            raise KeyboardInterrupt
        return fit(*arguments, seed=seed, **options)

    def watched(self, epoch):
        seeds.add(self._seed)
        start(self, epoch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "fit", killed)
        way(backup=folder)
    with monkeypatch.context() as patch:
        patch.setattr(batches.Batches, "start", watched)
        found = way(backup=folder)
    assert seeds - {0} == {2}, "0 is that of predictions"
    assert not folder.exists()
    whole = way()
    for model, other in zip(found.models, whole.models, strict=True):
        np.testing.assert_array_equal(weights(model), weights(other))


def test_cifar_run_keeps_the_members_until_the_notebook_has_ended(tmp_path, monkeypatch):
    (tmp_path / "backup").mkdir()
    other = tmp_path / "backup" / "attempt.json"
    other.touch()
    monkeypatch.setenv(supervision.VARIABLE, str(tmp_path))
    members.independent(small_model, TRAIN, RECIPE, (1,), backup=tmp_path / "backup" / "members")
    assert other.exists()
    assert (tmp_path / "backup" / "members" / "seed_1" / "training.npz").exists()


def test_a_bootstrap_sample_has_its_labels_and_about_63_percent_of_the_images():
    train = coloured(1000)
    sample = members.resampled(train, 0)
    assert len(sample) == len(train)
    np.testing.assert_array_equal(sample.images.mean(axis=(1, 2, 3)) // 25, sample.labels)
    kept = len(np.unique(sample.images.reshape(1000, -1), axis=0))
    assert kept / 1000 == pytest.approx(1 - np.exp(-1), abs=0.03)
    assert (members.resampled(train, 1).labels != sample.labels).any()


def test_weights_decide_what_is_drawn():
    chosen = np.zeros(100)
    chosen[[7, 8]] = 0.5
    assert set(members.resampled(TRAIN, 0, chosen).labels.tolist()) == {7, 8}


def test_a_vote_by_hand():
    """A quarter is wrong, of four classes: log(3) + log(3), and each of it counts nine times."""
    wrong = np.array([True, False, False, False])
    found, vote = members.reweighted(np.full(4, 0.25), wrong, classes=4)
    assert vote == pytest.approx(2 * np.log(3))
    np.testing.assert_allclose(found, np.array([9, 1, 1, 1]) / 12)


def test_a_member_that_guesses_has_no_vote_and_changes_nothing():
    start = np.full(4, 0.25)
    for wrong in ([True, True, True, False], [True] * 4):
        found, vote = members.reweighted(start, np.array(wrong), classes=4)
        assert vote == 0
        np.testing.assert_array_equal(found, start)


def test_a_member_without_mistakes_has_a_finite_vote():
    found, vote = members.reweighted(np.full(4, 0.25), np.zeros(4, bool), classes=4)
    assert vote == pytest.approx(np.log(7) + np.log(3))
    np.testing.assert_allclose(found, np.full(4, 0.25))


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(2, 10))
@settings(deadline=None)
def test_reweighting_keeps_a_distribution_and_never_lowers_what_was_wrong(wrong, classes):
    wrong = np.array(wrong)
    start = np.full(len(wrong), 1 / len(wrong))
    found, vote = members.reweighted(start, wrong, classes)
    assert found.sum() == pytest.approx(1)
    assert vote >= 0
    assert (found[wrong] >= start[wrong] - 1e-12).all()


def test_bagging_trains_each_member_on_its_own_sample():
    found = members.bagging(small_model, TRAIN, RECIPE, 2, seed=5)
    keras.utils.set_random_seed(6)
    alone = small_model()
    training.fit(alone, members.resampled(TRAIN, 6), None, RECIPE, seed=6)
    np.testing.assert_array_equal(weights(found.models[1]), weights(alone))


def test_boosting_votes_by_the_errors_on_all_images():
    # Labels that no colour explains, so that the first member is wrong on some of them.
    train = Split(TRAIN.images, np.where(np.arange(100) < 30, 0, TRAIN.labels))
    found = members.boosting(small_model, train, RECIPE, 2, seed=0)
    shares, votes = np.full(100, 0.01), []
    for model in found.models:
        wrong = ~evaluation.right(evaluation.predict_logits(model, train.images), train.labels)
        shares, vote = members.reweighted(shares, wrong)
        votes.append(vote)
    assert sum(votes) > 0
    np.testing.assert_allclose(found.combination.weights, np.array(votes) / sum(votes))


def test_boosting_of_members_that_only_guess_counts_them_alike():
    hopeless = Split(TRAIN.images * 0, TRAIN.labels)
    found = members.boosting(small_model, hopeless, RECIPE, 2, seed=0)
    assert sum(found.combination.weights) == pytest.approx(1)


def test_ways_are_compared_with_one_network():
    ways = {
        "seeds": members.independent(small_model, TRAIN, RECIPE, (0, 1)),
        "snapshots": members.snapshots(small_network, TRAIN, RECIPE, 2, seed=0),
    }
    table = members.compared(ways, VALIDATION)
    assert table.index.tolist() == ["one network", "seeds", "snapshots"]
    alone, both = (
        [evaluation.predict_logits(each, VALIDATION.images) for each in ways["seeds"].models[:n]]
        for n in (1, 2)
    )
    voted = ways["seeds"].combination(both)
    gap = evaluation.difference(voted, alone[0], VALIDATION.labels)
    assert table.loc["seeds", ["difference", "low", "high"]].tolist() == list(gap)
    unlike = evaluation.right(both[0], VALIDATION.labels) != evaluation.right(
        both[1], VALIDATION.labels
    )
    assert table.loc["seeds", "disagreement"] == unlike.mean()
    assert np.isnan(table.loc["one network", "disagreement"])
    seconds = [ways["seeds"].seconds[0], sum(ways["seeds"].seconds)]
    assert table["seconds"].tolist()[:2] == seconds
    assert (table["milliseconds"] > 0).all()


def test_members_can_be_kept_as_one_model(tmp_path):
    found = members.snapshots(small_network, TRAIN, RECIPE, 2, seed=0)
    models.save(found.whole(), tmp_path / "model.keras")
    voted = found.combination(
        [evaluation.predict_logits(each, VALIDATION.images) for each in found.models]
    )
    again = evaluation.predict_logits(models.load(tmp_path / "model.keras"), VALIDATION.images)
    np.testing.assert_allclose(again, voted, atol=1e-4)


def test_snapshots_are_the_ends_of_the_cycles_of_one_training():
    recipe = recipes.Recipe(epochs=3, batch_size=25, learning_rate=0.05)
    found = members.snapshots(small_network, TRAIN, recipe, 2, seed=0)
    first, last = found.models
    assert (weights(first) != weights(last)).any()
    # The second goes on from the first: one epoch in the first cycle, two in the second.
    again = members._copy(first)
    part = recipes.Recipe(epochs=2, batch_size=25, learning_rate=0.05, warmup=0.0)
    keras.utils.set_random_seed(0)
    training.fit(again, TRAIN, None, part, seed=1)
    close = np.abs(weights(again) - weights(last)).mean()
    assert close < np.abs(weights(first) - weights(last)).mean()


def test_a_soup_has_the_mean_of_the_weights():
    keras.utils.set_random_seed(0)
    parts = [small_model() for _ in range(3)]
    found = members.soup(parts, TRAIN.images)
    np.testing.assert_allclose(weights(found), np.mean([weights(p) for p in parts], axis=0), 1e-5)
    same = members.soup([parts[0]] * 2, TRAIN.images)
    np.testing.assert_array_equal(weights(same), weights(parts[0]))


def test_a_greedy_soup_leaves_out_what_hurts():
    found = members.independent(small_model, TRAIN, recipes.Recipe(4, 10, learning_rate=0.05), [0])
    good = found.models[0]
    bad = small_model()
    bad.set_weights([-5 * weight for weight in good.get_weights()])
    mixed, chosen = members.greedy_soup([bad, good], VALIDATION, TRAIN.images)
    assert chosen == (1,)
    np.testing.assert_array_equal(weights(mixed), weights(good))
    _, both = members.greedy_soup([good, good], VALIDATION, TRAIN.images)
    assert both == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: members.independent(small_model, TRAIN, RECIPE, []), "number of seeds is 0"),
        (lambda: members.bagging(small_model, TRAIN, RECIPE, 0, seed=0), "count is 0"),
        (lambda: members.boosting(small_model, TRAIN, RECIPE, 0, seed=0), "count is 0"),
        (lambda: members.snapshots(small_model, TRAIN, RECIPE, 3, seed=0), "expected 1 to 2"),
        (lambda: members.resampled(TRAIN, 0, np.ones(100)), "summing to 1"),
        (lambda: members.resampled(TRAIN, 0, np.ones(3) / 3), "expected 100"),
        (lambda: members.soup([], TRAIN.images), "number of ingredients is 0"),
        (lambda: members.soup([small_model(), small_network()], TRAIN.images), "differently"),
        (lambda: members.greedy_soup([], VALIDATION, TRAIN.images), "ingredients is 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ParameterError, match=message):
        call()
