#!/usr/bin/env python3
"""A method outside mtv-bench, in the standard library alone: every picture becomes a mosaic of 8 x 8 squares.

    [[arms]]
    name = "mosaic"
    label = "mosaic"
    method = { external = { command = ["python3", "scripts/external_method.py", "{input}", "{output}"] } }

    mtv-bench run my_study.toml --allow-commands

mtv-bench writes the pictures of a set as 8-bit RGB files ID.png into the first folder and takes ID.png of the same size from the second.
For a method of your own, replace `reconstruct` (with Pillow or torch, reading and writing become one line each). Whatever is printed is
shown if the exit code is not 0.
"""

import pathlib
import struct
import sys
import zlib

SQUARES = 8


def reconstruct(width, height, pixels):
    """The reconstruction of a picture given as rows of R, G, B bytes, in the same form: here the mean colour of each square."""
    out = bytearray(len(pixels))
    for top in range(0, height, max(1, height // SQUARES)):
        for left in range(0, width, max(1, width // SQUARES)):
            rows = range(top, min(top + max(1, height // SQUARES), height))
            columns = range(left, min(left + max(1, width // SQUARES), width))
            places = [3 * (y * width + x) for y in rows for x in columns]
            for c in range(3):
                mean = round(sum(pixels[p + c] for p in places) / len(places))
                for p in places:
                    out[p + c] = mean
    return bytes(out)


def read_png(path):
    """Width, height and pixels of an 8-bit RGB PNG without interlacing."""
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path}: not a PNG file")
    at, packed, header = 8, b"", None
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    width, height, depth, colour, _, _, interlaced = header
    if (depth, colour, interlaced) != (8, 2, 0):
        raise ValueError(f"{path}: only 8-bit RGB is read here")
    lines, stride = zlib.decompress(packed), 3 * width
    pixels, before = bytearray(), bytes(stride)
    for y in range(height):
        kind, line = lines[y * (stride + 1)], bytearray(lines[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for i in range(stride):
            left = line[i - 3] if i >= 3 else 0
            up, corner = before[i], before[i - 3] if i >= 3 else 0
            # The filters of the PNG specification: none, sub, up, average, Paeth.
            if kind == 1:
                line[i] = (line[i] + left) & 255
            elif kind == 2:
                line[i] = (line[i] + up) & 255
            elif kind == 3:
                line[i] = (line[i] + (left + up) // 2) & 255
            elif kind == 4:
                guess = left + up - corner
                nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))
                line[i] = (line[i] + nearest[2]) & 255
        pixels += line
        before = bytes(line)
    return width, height, bytes(pixels)


def write_png(path, width, height, pixels):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b"".join(b"\0" + pixels[3 * width * y : 3 * width * (y + 1)] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(png)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: external_method.py INPUT_FOLDER OUTPUT_FOLDER")
    source, target = map(pathlib.Path, sys.argv[1:])
    for path in sorted(source.glob("*.png")):
        width, height, pixels = read_png(path)
        write_png(target / path.name, width, height, reconstruct(width, height, pixels))


if __name__ == "__main__":
    main()
