"""The table and the picture of an update."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec

from trustee.evaluation.update_picture import draw_update
from trustee.evaluation.update_report import BAR, UpdateReport, draw_bar, report_update, update_text
from trustee.evaluation.update_size import ATTENTION, MLP, MatrixUpdate, parse_part
from trustee.types import Completion, Message, Stop, Trajectory, Turn

SVG = "{http://www.w3.org/2000/svg}"


def play(*successes: bool) -> tuple[Trajectory, ...]:
    """Return an episode for each task."""
    turn = Turn(
        rendered_ids=(1,),
        completion=Completion(ids=(2,), logprobs=(0.0,), stop="stop", version=0),
        message=Message(role="assistant"),
    )
    return tuple(
        Trajectory(
            id=f"x/{number}",
            task_id=f"t{number}",
            turns=(turn,),
            stop=Stop.DONE,
            rewards={"success": float(success)},
        )
        for number, success in enumerate(successes)
    )


UPDATES = tuple(
    MatrixUpdate(layer=layer, module=module, update=size * (layer + 1), base=10.0)
    for layer in range(2)
    for modules, size in ((ATTENTION, 0.1), (MLP, 0.4))
    for module in modules
)
PARTS = [parse_part(text, layers=2) for text in ("mlp", "0")]
PLAYED = report_update(
    UPDATES,
    PARTS,
    adapter=Path("runs/<a>"),
    base=play(False, False, True),
    whole=play(True, True, True),
    kept=[play(True, False, True), play(False, False, True)],
)
MEASURED = report_update(UPDATES, PARTS, adapter=Path("runs/<a>"))


def test_parts_are_compared_with_the_base_on_the_same_tasks() -> None:
    """Each has its share, its success and its gain; the whole one too; programs read it back."""
    mlp, low = PLAYED.parts
    assert mlp.success is not None
    assert mlp.gain is not None
    assert low.gain is not None
    assert PLAYED.gain is not None
    assert (2 / 3, 1, 0) == (mlp.success.value, mlp.gain.better, mlp.gain.worse)
    assert (0, 2) == (low.gain.better, PLAYED.gain.better)
    assert mlp.update_share > 0.9
    assert mlp.weight_share < 0.5
    again = msgspec.json.decode(
        msgspec.json.encode(PLAYED, enc_hook=str),
        type=UpdateReport,
        dec_hook=lambda _, text: Path(text),
    )
    assert PLAYED == again


def test_table() -> None:
    """A line of bars for each layer, then modules, then parts between nothing and all."""
    lines = update_text(PLAYED).splitlines()
    assert ["0", "1"] == [line.split()[0] for line in lines[2:4]]
    assert "█" * BAR in lines[3]
    assert "q_proj 0.0158  " in lines[4]
    assert ["nothing", "mlp", "0", "all"] == [line.split()[0] for line in lines[6:10]]
    assert "67% (" in lines[7]
    assert "+33.3 (" in lines[7]
    assert all(len(line) < 130 for line in lines)


def test_table_without_episodes() -> None:
    """What was not played has no column."""
    text = update_text(MEASURED)
    assert "success" not in text
    assert "nothing" not in text
    assert "mlp" in text


def test_bars() -> None:
    """They grow by eighths, and nothing is no bar."""
    assert ["", "▏", "█" * BAR] == [draw_bar(v, 1.0) for v in (0.0, 1 / 8 / BAR, 1.0)]
    assert "" == draw_bar(0.0, 0.0)


def test_picture_is_a_file_of_its_own() -> None:
    """It is XML, asks for nothing else, has a cell for each matrix and a bar for each part."""
    picture = draw_update(PLAYED)
    root = ElementTree.fromstring(picture)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "<a>: update against the weights, 0.0431 in all" in texts
    assert 1 + len(UPDATES) + 4 == len(list(root.iter(f"{SVG}rect")))
    assert {"nothing (base)", "mlp", "0", "all", "up_proj"} <= set(texts)
    for foreign in ("href", "<script", "url(", "@import"):
        assert foreign not in picture
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter():
        if "x" in element.attrib:
            right = float(element.attrib["x"]) + float(element.get("width", 0))
            assert 0 <= right <= width
            assert 0 <= float(element.attrib["y"]) <= height


def test_picture_of_sizes_alone() -> None:
    """Without episodes there is only the map."""
    root = ElementTree.fromstring(draw_update(MEASURED))
    assert 1 + len(UPDATES) == len(list(root.iter(f"{SVG}rect")))
