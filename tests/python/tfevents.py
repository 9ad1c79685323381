"""tfevents.py - reads an event file of TensorBoard, sharing no code with its writer: one JSON line an event.

    tfevents.py FILE

Every checksum is checked; anything unexpected is an error. Scalars are rounded to 1e-5 and scaled to integers.
"""
import json
import struct
import sys

TABLE = []
for i in range(256):
    for _ in range(8):
        i = (i >> 1) ^ (0x82F63B78 if i & 1 else 0)
    TABLE.append(i)


def masked_crc(data):
    c = 0xFFFFFFFF
    for byte in data:
        c = TABLE[(c ^ byte) & 255] ^ (c >> 8)
    c ^= 0xFFFFFFFF
    return (((c >> 15) | (c << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        length, crc = struct.unpack_from("<QI", data, at)
        assert crc == masked_crc(data[at:at + 8]), f"byte {at}: the length's checksum"
        payload = data[at + 12:at + 12 + length]
        assert len(payload) == length, f"byte {at}: a record of {length} bytes is cut"
        assert struct.unpack_from("<I", data, at + 12 + length) == (masked_crc(payload),), f"byte {at}: the checksum"
        yield payload
        at += 16 + length


def fields(message):
    """(number, value) of a protocol buffer's message; embedded messages as bytes."""
    at = 0

    def varint():
        nonlocal at
        v = shift = 0
        while True:
            byte = message[at]
            at += 1
            v |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return v

    while at < len(message):
        key = varint()
        wire = key & 7
        if wire == 0:
            value = varint()
        elif wire == 2:
            n = varint()
            value = message[at:at + n]
            assert len(value) == n
            at += n
        else:
            form = {1: "<d", 5: "<f"}[wire]
            value, = struct.unpack_from(form, message, at)
            at += struct.calcsize(form)
        yield key >> 3, value


def main(path):
    with open(path, "rb") as f:
        events = [list(fields(r)) for r in records(f.read())]
    assert dict(events[0])[3] == b"brain.Event:2", "the first record says what file it is"
    for event in map(dict, events[1:]):
        values = [dict(fields(v)) for number, v in fields(event[5]) if number == 1]
        print(json.dumps({"time": event[1], "step": event[2],
                          "scalars": {v[1].decode(): round(v[2] * 1e5) for v in values}}))


if __name__ == "__main__":
    main(sys.argv[1])
