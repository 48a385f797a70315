import pytest
from killing import Killer


@pytest.fixture
def killer(tmp_path, record_property):
    with Killer(tmp_path / "queue", record_property) as killer:
        yield killer
