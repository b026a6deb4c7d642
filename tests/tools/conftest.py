import pytest
from prepared_data import sixty_documents


@pytest.fixture
def corpus(tmp_path):
    """The path of sixty different documents, as JSON lines."""
    return sixty_documents(tmp_path)
