"""What a search remembers between builds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from temper.precision.trials import Memory


def _fails() -> float:
    raise AssertionError("it was to be remembered")


def test_values_are_found_by_all_that_they_depend_on(tmp_path: Path) -> None:
    def memory(*about: str) -> Memory:
        return Memory(tmp_path / "work", lambda: about)

    assert memory("a").get("loss", lambda: 0.5) == 0.5
    assert memory("a").get("loss", _fails) == 0.5
    assert memory("a", "b").get("loss", lambda: 0.25) == 0.25
    assert memory("a").beside("more").get("loss", lambda: 2.0) == 2.0
    assert memory("a").beside("more").get("loss", _fails) == 2.0
    assert memory("a").get("loss", _fails) == 0.5
    for path in (tmp_path / "work").iterdir():
        path.write_text("[damaged")
    assert memory("a").get("loss", lambda: 1.0) == 1.0


def test_what_values_depend_on_is_not_asked_before_they_are(tmp_path: Path) -> None:
    asked: list[int] = []

    def about() -> Sequence[str]:
        asked.append(1)
        return ("a",)

    memory = Memory(tmp_path, about)
    beside = memory.beside("more")
    assert not asked
    beside.get("loss", lambda: 1.0)
    assert asked == [1]


def test_without_a_folder_values_stay_in_memory(tmp_path: Path) -> None:
    memory = Memory()
    assert memory.get("loss", lambda: 1.0) == 1.0 and memory.get("loss", _fails) == 1.0
    assert memory.path is None and memory.beside("more").get("loss", lambda: 2.0) == 2.0
