"""Intervals cover as often as they say, and the bootstrap is what it claims to be."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from hybrid.statistics.intervals import bootstrap, interval, kendall, summary


def first(means):
    return means[:, 0]


def difference(means):
    return means[:, 0] - means[:, 1]


@pytest.mark.parametrize("n", [3, 5])
def test_interval_of_normal_differences_covers_the_planted_truth(n):
    rng = np.random.default_rng(n)
    found = [interval(rng.normal(0.1, 0.2, n)) for _ in range(1000)]
    covered = np.mean([low <= 0.1 <= high for _, low, high in found])
    assert covered == pytest.approx(0.95, abs=0.02) and covered >= 0.9


def test_percentile_bootstrap_of_three_values_covers_three_times_in_four_at_most():
    # Why Student's t is used: a percentile interval stays within the range of the values.
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        values = rng.normal(0.1, 0.2, 3)
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=200, method="percentile", rng=rng
        ).confidence_interval
        assert values.min() - 1e-9 <= found.low and found.high <= values.max() + 1e-9
        covered.append(found.low <= 0.1 <= found.high)
    assert np.mean(covered) < 0.8


@given(hnp.arrays(float, st.integers(2, 9), elements=st.floats(0, 1)))
def test_interval_of_shares_stays_between_zero_and_one(values):
    free, cut = interval(values), interval(values, bounds=(0, 1))
    assert cut[0] == free[0]
    assert cut[1:] == (max(free[1], 0), min(free[2], 1))


def test_summary_bounds_shares_and_nothing_else():
    table = pd.DataFrame({"mixer": "gla", "recall": [0.1, 0.9, 1.0], "loss": [0.1, 0.9, 1.0]})
    shares, losses = (summary(table, ["mixer"], y).iloc[0] for y in ("recall", "loss"))
    assert (shares["low"], shares["high"]) == (0, 1)
    assert losses["low"] < 0 and losses["high"] > 1 and shares["mean"] == losses["mean"]


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1\.5"):
        interval([0.5, 1.5], bounds=(0, 1))


@pytest.mark.parametrize("n", [3, 5, 20])
def test_bootstrap_of_a_difference_is_students_paired_interval(n):
    samples = np.random.default_rng(n).normal(size=(n, 2)) @ [[1, 0.8], [0, 0.6]]
    paired = stats.ttest_rel(*samples.T).confidence_interval(0.95)
    value, low, high = bootstrap(samples, difference, draws=200_000)
    assert value == pytest.approx(difference(samples.mean(0)[None])[0])
    width = paired.high - paired.low
    assert (low, high) == pytest.approx((paired.low, paired.high), abs=0.03 * width)


def test_bootstrap_of_many_repetitions_is_that_of_scipy():
    rng = np.random.default_rng(1)
    samples = rng.normal([2.0, 1.0], 0.3, (400, 2))
    found = bootstrap(samples, lambda m: m[:, 0] / m[:, 1])
    theirs = stats.bootstrap(
        tuple(samples.T),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        n_resamples=4000,
        rng=rng,
    ).confidence_interval
    assert found[1:] == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_keeps_seeds_paired():
    # The second mean follows the first exactly: their difference has no spread, whatever they do.
    noise = np.random.default_rng(0).normal(size=(3, 1))
    value, low, high = bootstrap(np.hstack([noise + 1, noise]), difference)
    assert (low, high) == pytest.approx((1, 1)) and value == pytest.approx(1)


def test_bootstrap_does_not_depend_on_the_order_of_seeds_but_for_its_draws():
    samples = np.random.default_rng(2).normal(size=(3, 4))
    here, there = bootstrap(samples, first, draws=50_000), bootstrap(samples[::-1], first, draws=50_000)
    assert here == pytest.approx(there, abs=0.1)
    assert bootstrap(samples, first) == bootstrap(samples, first)


def test_bootstrap_refuses_one_repetition():
    with pytest.raises(ValueError, match="at least two repetitions; got 1"):
        bootstrap(np.ones((1, 2)), first)


@given(hnp.arrays(float, st.tuples(st.just(2), st.integers(2, 8)), elements=st.floats(-9, 9), unique=True))
def test_kendall_is_that_of_scipy(lists):
    assert kendall(lists[None])[0] == pytest.approx(stats.kendalltau(*lists).statistic)


def test_a_tie_counts_for_neither_order():
    assert kendall(np.array([[[1.0, 2.0, 3.0], [1.0, 1.0, 2.0]]]))[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("n", [3, 5])
def test_interval_of_a_rank_correlation_covers_the_planted_order(n):
    # Six mixers, a known order before and after, seeds that disturb it by about one rank.
    rng = np.random.default_rng(n)
    truth = np.array([np.arange(6.0), [0, 2, 1, 5, 3, 4]])
    tau = kendall(truth[None])[0]
    covered = []
    for _ in range(300):
        samples = truth + rng.normal(0, 0.7, (n, 2, 6))
        _, low, high = bootstrap(samples, kendall, draws=400)
        covered.append(low <= tau <= high)
    assert np.mean(covered) >= 0.9
