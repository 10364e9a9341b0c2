"""How number formats lie in their bits, so that numpy can judge and move values of formats that it does not know."""

from __future__ import annotations

from collections.abc import Mapping

PATTERNS: Mapping[str, tuple[str, int, int, int]] = {
    "F64": ("u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0001),
    "F32": ("u4", 0x7FFF_FFFF, 0x7F80_0000, 0x7F80_0001),
    "F16": ("u2", 0x7FFF, 0x7C00, 0x7C01),
    "BF16": ("u2", 0x7FFF, 0x7F80, 0x7F81),
    "F8_E5M2": ("u1", 0x7F, 0x7C, 0x7D),
    "F8_E4M3": ("u1", 0x7F, 0x7F, 0x7F),
}
"""By dtype: unsigned integer of the same width, mask without the sign bit, smallest pattern that is not finite, and
smallest that is NaN. With the sign masked off, IEEE patterns order as their magnitudes do, so one integer maximum
answers "all zero?" and "all finite?" at once. float8_e4m3fn has no infinity and one NaN."""
