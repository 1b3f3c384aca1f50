"""Equations between stages: tolerance zero, key by key."""

from rentroll.equations import Part, equate

MEASURES = ("requests", "gpu_ns")


def test_equal_stages_have_no_faults() -> None:
    found = equate("a = b", MEASURES, {"x": (1, 2), "y": (3, 4)}, {"x": (1, 2), "y": (3, 4)}, ())
    assert (found.left, found.right, found.faults) == ((4, 6), (4, 6), ())


def test_difference_with_a_reason_is_no_fault() -> None:
    part = Part("x", "late", (1, 5), ("event",))
    found = equate("a = b", MEASURES, {"x": (3, 9)}, {"x": (2, 4)}, (part,))
    assert (found.explained(), found.faults) == ((1, 5), ())


def test_differences_of_two_keys_do_not_cancel_out() -> None:
    found = equate("a = b", MEASURES, {"x": (1, 0), "y": (2, 0)}, {"x": (2, 0), "y": (1, 0)}, ())
    assert found.left == found.right
    assert found.faults == (
        "x, requests: 1 on the left, 2 on the right",
        "y, requests: 2 on the left, 1 on the right",
    )


def test_reason_that_explains_too_much_is_a_fault() -> None:
    part = Part("x", "late", (2, 0), ())
    found = equate("a = b", MEASURES, {"x": (3, 0)}, {"x": (2, 0)}, (part,))
    assert found.faults == ("x, requests: 3 on the left, 4 on the right",)


def test_key_of_one_side_only_is_counted() -> None:
    found = equate("a = b", MEASURES, {}, {"x": (0, 1)}, ())
    assert found.faults == ("x, gpu_ns: 0 on the left, 1 on the right",)
