"""What is written beside its place: named when it is done, gone when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden_errors import ErrorCheck
from trustee.errors import InputError, RunError
from trustee.export.staging import staged


def test_a_folder_gets_its_name_at_the_end(tmp_path: Path) -> None:
    """Until then nothing stands under the final name, and afterwards nothing beside it."""
    final = tmp_path / "new" / "model"
    with staged(final) as partial:
        partial.mkdir()
        (partial / "weights").write_text("1")
        assert not final.exists()
    assert [final] == list(final.parent.iterdir())
    assert "1" == (final / "weights").read_text()


def test_nothing_is_overwritten(tmp_path: Path, check_error: ErrorCheck) -> None:
    """A file that is there stays as it is."""
    final = tmp_path / "model.gguf"
    final.write_text("mine")
    with pytest.raises(InputError) as caught, staged(final):
        raise AssertionError
    check_error(caught, final)
    assert "mine" == final.read_text()


def write_half(final: Path, error: BaseException) -> None:
    """Write something, and fail."""
    with staged(final) as partial:
        partial.mkdir()
        (partial / "half").touch()
        raise error


def test_a_full_disk_leaves_nothing(tmp_path: Path, check_error: ErrorCheck) -> None:
    """The half that was written is deleted, and the error says what to do."""
    final = tmp_path / "model.gguf"
    with pytest.raises(RunError) as caught:
        write_half(final, OSError(28, "No space left on device"))
    check_error(caught, final, "No space left on device")
    assert [] == list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    """Not even something beside the final name."""
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "model", KeyboardInterrupt())
    assert [] == list(tmp_path.iterdir())


def test_a_link_beside_it_is_not_followed(tmp_path: Path) -> None:
    """A foreign folder may hold one under the name that is used meanwhile."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / ".model.partial").symlink_to(outside)
    with staged(tmp_path / "model") as partial:
        partial.mkdir()
    assert (outside / "kept").exists()
