"""What is tried less and less while it goes wrong."""

from __future__ import annotations

from mirrorha.volume.patience import Patience


def test_what_is_tried_in_vain_is_tried_less_and_less() -> None:
    patience = Patience()

    def tried(times: int, *, went_well: bool) -> list[int]:
        found = []
        for number in range(times):
            if patience.is_next():
                found.append(number)
                patience.note(went_well=went_well)
        return found

    assert tried(100, went_well=False) == [0, 3, 8, 17, 34, 67]
    assert tried(60, went_well=True)[1:] == list(range(33, 60)), "at once, as long as it goes well"
    assert tried(20, went_well=False) == [0, 3, 8, 17], "which is forgotten by then"
    tried(5000, went_well=False)
    pauses = tried(5000, went_well=False)
    assert pauses[1] - pauses[0] == 1025, "and is never given up"
