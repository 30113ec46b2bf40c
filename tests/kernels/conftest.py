"""Starts, before the first test, what test_twins_of_rows.py asks for; see rows.py."""

from tests.kernels.rows import OTHER_ROWS


def pytest_collection_finish(session):
    if not session.config.option.collectonly:
        for item in session.items:
            if getattr(item, "originalname", "") == "test_under_the_row_of_another_processor":
                OTHER_ROWS.start(item.callspec.params["row"])


def pytest_unconfigure():
    OTHER_ROWS.end()
