"""Fixtures that several files of tests share."""

import shutil

import pytest
from prepared_data import sixty_documents


@pytest.fixture
def corpus(tmp_path):
    """The path of sixty different documents, as JSON lines."""
    return sixty_documents(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with tokens.h5, run.ini and the finished run run/; no test changes it."""
    from tiny_runs import assert_done, make_workplace, pretrain  # needs the binary, which scripts' tests do without

    workplace = make_workplace(tmp_path_factory.mktemp("trained"))
    assert_done(pretrain(workplace, "run", train__steps=1))
    return workplace


@pytest.fixture
def workplace(tmp_path, trained):
    """tokens.h5, run.ini, and in model/ a sound model that tests damage."""
    from tiny_runs import make_workplace

    make_workplace(tmp_path)
    shutil.copytree(trained / "run/final", tmp_path / "model")
    return tmp_path


@pytest.fixture
def runs(tmp_path):
    """The folders of a pretraining run and two uptraining runs, for tools/report.py."""
    from report_runs import write_runs  # needs matplotlib, which most tests do without

    return write_runs(tmp_path)
