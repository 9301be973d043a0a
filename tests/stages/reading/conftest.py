"""What the tests of the reading stages share."""

import pytest

from radit_job import observe


@pytest.fixture
def events():
    seen = []
    observe.send_events_to(seen.append)
    yield seen
    observe.send_events_to(lambda event: None)
