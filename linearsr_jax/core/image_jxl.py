"""The depth of a JPEG XL file, which its Pillow plugin does not tell.

By ISO/IEC 18181-1, annexes A (container is that of 18181-2) and D: the codestream
begins with the image's size and then with what it is made of, in packed bits.
"""

_CODESTREAM = b"\xff\x0a"
# Offset and bits of the four forms of a number.
_SIDE = ((1, 9), (1, 13), (1, 18), (1, 30))
_DEPTH = ((8, 0), (10, 0), (12, 0), (1, 6))


def bits_per_sample(data: bytes) -> int | None:
    """Reads the bits per channel from a file's header; None if they are not found.

    Args:
      data: the file; its first bytes suffice where there is no container.
    """
    bits = _Bits(_codestream(data))
    try:
        if bits.read(16) != int.from_bytes(_CODESTREAM, "little"):
            return None
        is_small = bits.read(1)
        bits.read(5) if is_small else bits.read_one_of(_SIDE)
        if bits.read(3) == 0:  # no usual ratio of the sides
            bits.read(5) if is_small else bits.read_one_of(_SIDE)
        if bits.read(1):  # all as usual
            return 8
        if bits.read(1):  # orientation, and whether there is something unusual
            bits.read(3)
            if bits.read(3):
                return None
        if bits.read(1):  # floats
            return bits.read_one_of(((32, 0), (16, 0), (24, 0), (1, 6)))
        return bits.read_one_of(_DEPTH)
    except IndexError:
        return None


def _codestream(data):
    if data.startswith(_CODESTREAM):
        return data
    place = 0
    while place + 8 <= len(data):
        start = place + 8
        size, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : start]
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8]), start + 8
        if kind == b"jxlc":
            return data[start:]
        if kind == b"jxlp":  # a part of it, after its number
            return data[start + 4 :]
        if size < start - place:
            break
        place += size
    return b""


class _Bits:
    """Numbers in packed bits, the lowest first."""

    def __init__(self, data):
        self._data = data
        self._place = 0

    def read(self, count):
        value = 0
        for number in range(count):
            byte = self._data[self._place // 8]
            value |= (byte >> self._place % 8 & 1) << number
            self._place += 1
        return value

    def read_one_of(self, forms):
        offset, count = forms[self.read(2)]
        return offset + self.read(count)
