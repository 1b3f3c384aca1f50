"""How far a partition is behind, by what was seen of its log and when."""

from streams.lag import FACTS_MAX, Lags, PartitionLag

PLACE = ("usage.v1", 0)


def test_lag_counts_from_the_first_look_that_saw_what_is_not_written() -> None:
    lag = PartitionLag()
    lag.saw(100, at_s=10, written=100)
    assert (lag.events(100), lag.seconds(100, now_s=50)) == (0, 0.0)
    lag.saw(150, at_s=20, written=100)
    lag.saw(400, at_s=30, written=100)
    assert (lag.events(100), lag.seconds(100, now_s=50)) == (300, 30)
    assert lag.seconds(150, now_s=50) == 20
    assert lag.seconds(400, now_s=50) == 0.0


def test_a_log_that_stands_still_while_nothing_is_written_ages() -> None:
    lag = PartitionLag()
    for at_s in range(100):
        lag.saw(7, at_s=at_s, written=3)
    assert lag.seconds(3, now_s=100) == 100


def test_memory_is_bounded_and_the_oldest_fact_stays() -> None:
    lag = PartitionLag()
    for at_s in range(10 * FACTS_MAX):
        lag.saw(at_s + 1, at_s=at_s, written=0)
    assert lag.seconds(0, now_s=10 * FACTS_MAX) == 10 * FACTS_MAX
    assert lag.events(0) == 10 * FACTS_MAX


def test_partitions_that_moved_away_are_forgotten() -> None:
    lags = Lags()
    lags.saw({PLACE: 10, ("usage.v1", 1): 5}, {PLACE: 4}, at_s=1)
    assert lags.events({PLACE: 4}) == {PLACE: 6}
    assert lags.seconds({PLACE: 4}, now_s=3) == 2
    lags.saw({("usage.v1", 1): 6}, {("usage.v1", 1): 5}, at_s=2)
    assert lags.events({PLACE: 4, ("usage.v1", 1): 5}) == {("usage.v1", 1): 1}
