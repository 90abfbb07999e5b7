"""Files that failed once, and some random damage; `make fuzz` does more."""

from __future__ import annotations

from itertools import islice

import pytest

from .run import corpus, mutations, run

MUTATIONS = 200


@pytest.mark.slow
def test_damaged_files_give_a_result_or_errors_of_one_line() -> None:
    report = run([*corpus(), *islice(mutations(), MUTATIONS)])
    assert report.tried.total() >= MUTATIONS
    assert not report.failures, "\n".join(f"{job}: {why}" for job, why in report.failures.items())
