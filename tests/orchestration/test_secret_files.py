"""Secrets in files of their own: what is damaged there is written again, or refused in one line."""

import pytest

from domain.config import Places
from domain.errors import Unavailable, UsageError
from orchestration.secret_files import keep_secrets, kept_secrets

KEY = "a key of the user's own, of more than 32 characters"


@pytest.fixture
def places(tmp_path):
    return Places(home=tmp_path, model_key=KEY)


def test_a_file_that_holds_other_bytes_is_written_again(places):
    directory = keep_secrets(places)
    (directory / "tidemill_model_key").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"tidemill_model_key: .*; remove it"):
        kept_secrets(str(directory))
    assert kept_secrets(str(keep_secrets(places))) == {"model_key": KEY}


def test_what_is_no_file_is_refused_by_its_name(places):
    path = keep_secrets(places) / "tidemill_model_key"
    path.unlink()
    path.mkdir()
    with pytest.raises(Unavailable, match=r"tidemill_model_key cannot be read \(Is a directory\); remove it"):
        keep_secrets(places)
