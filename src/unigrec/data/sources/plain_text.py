"""Any text file as a plain one in UTF-8: unpack it, find its encoding out, write a temporary copy where needed."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from unigrec.base.errors import UnigrecError

PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
CHUNK_BYTES = 2**20
SAMPLE_BYTES = 2**18  # of the lines that are no ASCII, to find the encoding out
WESTERN = "cp1252"
# Alphabets other than the Latin one betray their encoding by the letters that a guess makes of them. Latin ones do not.
OTHER_SCRIPTS = {
    *("cp1251", "koi8_r", "koi8_u", "mac_cyrillic", "cp866", "iso8859_5", "cp1253", "iso8859_7", "cp1255", "iso8859_8"),
    *("cp1256", "iso8859_6", "cp874", "tis_620", "big5", "big5hkscs", "gb2312", "gbk", "gb18030", "cp932", "shift_jis"),
    *("shift_jis_2004", "shift_jisx0213", "euc_jp", "euc_jis_2004", "iso2022_jp", "cp949", "euc_kr", "johab"),
}
# Words of these scripts are runs of bytes beyond ASCII, pairs with the first byte of kana in Shift-JIS, or pairs with
# no letter of ASCII next to them (a Chinese or Japanese letter may end in a byte of ASCII). Western text has single
# letters and signs between ASCII, and a guess takes few of them (a degree sign, an accent) for any script.
FOREIGN_WORD = re.compile(
    rb"(?<![0-9A-Za-z\x80-\xff])(?:[\x81-\xfe][\x40-\x7e\x80-\xfe])+(?![0-9A-Za-z\x80-\xff])|"
    rb"(?:[\x81-\x83][\x40-\xfc]){2,}|[\x80-\xff]{3,}"
)
FOREIGN_BYTES = 5  # in different such words; fewer tell nothing
MARKS = (  # byte order marks; the longer first, as one begins like another
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda path, _mode: pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"),
    b"\x04\x22\x4d\x18": lambda path, _mode: pa.CompressedInputStream(pa.OSFile(str(path)), "lz4"),
}
DAMAGES = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException, RuntimeError)


@contextmanager
def unpacked(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if its first bytes say that it is packed, whatever its name says.

    Raises:
        UnigrecError: the archive is damaged or cut off, or a zip archive holds another number of files than one.
    """
    with file.open("rb") as stream:
        head = stream.read(8)
    try:
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
                if len(names) != 1:
                    raise UnigrecError(f"{file}: the archive holds {len(names)} files; pack one, or unpack it")
                with archive.open(names[0]) as inside:
                    yield inside
            return
        opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), open)
        with opener(file, "rb") as inside:
            yield inside
    except PermissionError as error:
        raise UnigrecError(f"{file}: may not be read by this user; change its permissions or its owner") from error
    except DAMAGES as error:
        raise UnigrecError(f"{file}: damaged or cut off ({error}); download or write it again") from error


def is_packed(file: Path) -> bool:
    """Whether the file's first bytes are those of a packed file."""
    with file.open("rb") as stream:
        head = stream.read(8)
    return head.startswith((b"PK\x03\x04", *_OPENERS))


def head_of(file: Path, size: int) -> bytes:
    """The first bytes of a file, unpacked; at most `size`."""
    with unpacked(file) as stream:
        return _read(stream, size)


def _read(stream: IO[bytes], size: int) -> bytes:
    """Read `size` bytes, or all that there are; a single read may give less."""
    parts = []
    while size > 0 and (part := stream.read(min(size, CHUNK_BYTES))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def encoding_of(file: Path) -> str:
    """The name of a file's encoding, as Python spells it: its mark, or UTF-8 if it can be, or what its letters suggest.

    Letters tell scripts apart, not the encodings of one script: a Latin one is taken for Western European. So is a text
    with too few letters to tell.
    """
    head = head_of(file, 64)
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    if len(head) > 1 and b"\x00" in head[:2]:  # an ASCII header of two bytes per letter, without a mark
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with unpacked(file) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        return "utf-8"
    except UnicodeDecodeError:
        return _guess(_foreign_lines(file))


def _foreign_lines(file: Path) -> bytes:
    """Lines that are no ASCII, as a sample."""
    lines, size = [], 0
    with unpacked(file) as stream:
        rest = b""
        while size < SAMPLE_BYTES and (chunk := stream.read(CHUNK_BYTES)):
            *whole, rest = (rest + chunk).split(b"\n")
            found = [line for line in whole if not line.isascii()]
            lines += found
            size += sum(map(len, found))
        if not rest.isascii():
            lines.append(rest)
    return b"\n".join(lines)[:SAMPLE_BYTES]


def _guess(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    if not _holds_foreign_words(sample):
        return WESTERN
    best = from_bytes(sample).best()
    return best.encoding if best is not None and best.encoding in OTHER_SCRIPTS else WESTERN


def _holds_foreign_words(sample: bytes) -> bool:
    """Whether most bytes beyond ASCII stand as they do in words of another script than the Latin one."""
    words = [word for word in FOREIGN_WORD.findall(sample) if _count_beyond_ascii(word) > 1]  # one may be an Ö or a £
    enough = sum(map(_count_beyond_ascii, set(words))) >= FOREIGN_BYTES
    return enough and 2 * sum(map(_count_beyond_ascii, words)) > _count_beyond_ascii(sample)


def _count_beyond_ascii(text: bytes) -> int:
    return len(text.translate(None, delete=bytes(range(128))))


def write_plain(file: Path, encoding: str, to: Path) -> None:
    """Copy a text file: unpacked, as UTF-8, and with one kind of line end. Raises UnigrecError for a damaged file."""
    # Western European has five bytes without a letter; a text that holds one is read nevertheless, with a mark for it.
    errors = "replace" if encoding == WESTERN else "strict"
    try:
        with unpacked(file) as stream, to.open("w", encoding="utf-8", newline="\n") as out:
            text = io.TextIOWrapper(
                io.BufferedReader(_Readable(stream)), encoding=encoding, errors=errors, newline=None
            )
            while part := text.read(CHUNK_BYTES):
                out.write(part)
    except UnicodeDecodeError as error:
        raise UnigrecError(f"{file}: read as {encoding}, it holds bytes that mean nothing; save it as UTF-8") from error


class _Readable(io.RawIOBase):
    """What `io.TextIOWrapper` asks of a stream, for those of pyarrow and zipfile too."""

    def __init__(self, stream: IO[bytes]):
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.stream.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)
