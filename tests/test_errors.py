"""Errors of the user, and the nearest known name."""

from __future__ import annotations

from contextae.errors import UserError, nearest


def test_a_user_error_is_a_value_error_with_its_paragraph() -> None:
    error = UserError("mask_ratio must be between 0 and 1. Got 75.")
    assert isinstance(error, ValueError)
    assert str(error) == "mask_ratio must be between 0 and 1. Got 75."


def test_the_nearest_name_is_suggested_and_nothing_where_none_is_near() -> None:
    known = ["training.epochs", "training.seed", "encoder.depth"]
    assert nearest("training.epoch", known) == " Did you mean 'training.epochs'?"
    assert nearest("encoder.dept", iter(known)) == " Did you mean 'encoder.depth'?"
    assert nearest("zebra", known) == ""
    assert nearest("training.epochs", []) == ""
