"""What the driver has seen of a pack since its history was cleared, from the first frame on."""

from __future__ import annotations

from dataclasses import dataclass

from smartbms_protocol import PackState, layout


@dataclass
class History:
    """Extremes and sums; None until there was a frame.  Units are in the names.

    Charge is integrated between frames that follow each other, never over a gap.
    """

    lowest_pack_mv: int | None = None
    highest_pack_mv: int | None = None
    lowest_cell_mv: int | None = None
    highest_cell_mv: int | None = None
    coldest_raw: int | None = None
    hottest_raw: int | None = None
    drawn_mas: float = 0.0
    """Charge drawn from the pack, mA x s."""
    deepest_wh: int | None = None
    """Most energy that was missing to the capacity setting."""
    full_at: float | None = None
    """When the BMS last said 100 %."""
    _at: float | None = None

    def frame(self, pack: PackState, now: float) -> None:
        """Take in the frame that was taken last."""
        frame = pack.frame
        if frame is None:
            return
        if not frame.has(layout.NO_COMMUNICATION):  # with it, cells read 0 V and 0 counts
            self.lowest_pack_mv = _least(self.lowest_pack_mv, frame.voltage_mv)
            self.highest_pack_mv = _most(self.highest_pack_mv, frame.voltage_mv)
            self.lowest_cell_mv = _least(self.lowest_cell_mv, frame.lowest_mv)
            self.highest_cell_mv = _most(self.highest_cell_mv, frame.highest_mv)
            self.coldest_raw = _least(self.coldest_raw, frame.coldest_raw)
            self.hottest_raw = _most(self.hottest_raw, frame.hottest_raw)
        self.deepest_wh = _most(self.deepest_wh, max(0, frame.capacity_wh - frame.stored_wh))
        if frame.soc_percent == 100:
            self.full_at = now
        if self._at is not None and now - self._at <= 3 * pack.interval_s and frame.current_ma is not None:
            self.drawn_mas += max(0, -frame.current_ma) * (now - self._at)
        self._at = now


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)


def _most(one: int | None, other: int) -> int:
    return other if one is None else max(one, other)
