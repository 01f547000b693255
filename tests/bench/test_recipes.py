"""The arithmetic of the benches over recipes; what they measure is not tested here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import recipes  # noqa: E402
import toolmaster  # noqa: E402
from trustee.config import read_config  # noqa: E402
from trustee.environments.trial.environment import Trial  # noqa: E402
from trustee.environments.trial.transforms.supply import Break  # noqa: E402
from trustee.errors import InputError  # noqa: E402

TINY = ROOT / "configs" / "toolmaster-tiny.toml"

pytestmark = pytest.mark.slow


def test_other_world_is_dead_in_another_way(tmp_path: Path) -> None:
    """The changed config breaks the same tools, and nothing else differs."""
    own = read_config(TINY)
    other = read_config(toolmaster.write_other_world(tmp_path / "other.toml", TINY))
    assert isinstance(own.env, Trial)
    assert isinstance(other.env, Trial)
    assert ((Break(),), (Break(how="empty"),)) == (own.env.transforms, other.env.transforms)
    assert (own.run, own.env.inner, own.eval) == (other.run, other.env.inner, other.eval)


def test_world_without_broken_tools_has_no_other_way(tmp_path: Path) -> None:
    """A config without a broken tool is refused."""
    with pytest.raises(InputError, match="no transform of kind break"):
        toolmaster.write_other_world(tmp_path / "other.toml", ROOT / "configs" / "tiny.toml")


def test_line_has_a_list_over_seeds() -> None:
    """Every share stands in the line, once per seed."""
    run = dict.fromkeys(toolmaster.KEYS, 0.51234) | {"tasks": 300, "minutes": 7.66}
    line = toolmaster.summarise([run, run])
    assert "toolmaster" == line["bench"]
    assert [0.5123, 0.5123] == line["sft_rl"]
    assert ([300, 300], [7.7, 7.7]) == (line["tasks"], line["minutes"])


def test_table_has_a_row_per_recipe() -> None:
    """Rows are policies, columns worlds; the base was not trained."""
    shares = dict.fromkeys(recipes.RECIPES, 0.5)
    text = recipes.show_table(
        {
            "success": {"base": shares, "ftrl": shares | {"ftrl": 0.25}},
            "minutes": {"ftrl": 3.25},
        }
    )
    assert [
        "trained by         trustee        ftrl  toolmaster     min",
        "base                 50.0%       50.0%       50.0%       -",
        "ftrl                 50.0%       25.0%       50.0%     3.2",
    ] == text.splitlines()


def test_recipes_have_their_configs() -> None:
    """Every recipe's config is there and can be read."""
    assert ["Simulated", "Executable", "Trial"] == [
        type(read_config(path).env).__name__ for path in recipes.RECIPES.values()
    ]
