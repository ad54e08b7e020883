"""Here: the axes of charts: round ticks, positions of values, numbers as short text.

Not here: drawing (report/charts.py, reproduce/plots.py).
"""

from __future__ import annotations

import math


def number(value: float) -> str:
    """A number in at most four significant digits; an exponent only from a million up or below 1e-3."""
    size = abs(value)
    if size == 0 or not math.isfinite(value):
        return f"{value:g}"
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


class Axis:
    """Maps values between `low` and `high` to positions between `start` and `end`, and knows its round ticks.

    `pad`: the axis goes on to the first and the last tick, which then enclose the values.
    """

    def __init__(
        self, low: float, high: float, start: float, end: float, *, log: bool, pad: bool = False
    ) -> None:
        if low == high:
            low, high = (
                (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
            )
        self.log, self.start, self.end = log, start, end
        self.ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
        if pad:
            low, high = min(low, self.ticks[0]), max(high, self.ticks[-1])
        else:
            self.ticks = [tick for tick in self.ticks if low <= tick <= high]
        self.low, self.high = self._scale(low), self._scale(high)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def position(self, value: float) -> float:
        """Where a value is drawn."""
        share = (self._scale(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _linear_ticks(low: float, high: float) -> list[float]:
    """Four to seven multiples of 1, 2 or 5 times a power of ten that enclose the range."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if (high - low) / step <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last - first > 6:
        stride = math.ceil((last - first) / 6)
        return [10.0**i for i in range(first, last + stride, stride)]
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [factor * 10.0**i for i in range(first, last + 1) for factor in factors]
    # The outermost ticks that still enclose the range, so that a chart never begins a decade too early.
    begin = max(i for i, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    end = min(i for i, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    return ticks[begin : end + 1]
