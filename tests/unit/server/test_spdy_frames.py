"""The SPDY codec: what we write others can read, and what others write cannot hurt us."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vkprovider.server.spdy.frames import (
    DICTIONARY,
    MAX_CONTROL_BYTES,
    Data,
    FrameDecoder,
    FrameEncoder,
    GoAway,
    HeadersFrame,
    Ping,
    RstStream,
    Settings,
    SpdyError,
    SynReply,
    SynStream,
    WindowUpdate,
)

stream_ids = st.integers(1, 2**31 - 1)
words = st.integers(0, 2**32 - 1)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(str.lower).filter(lambda n: n == n.lower())
headers = st.dictionaries(names, st.text(max_size=200), max_size=8)
control_frames = st.one_of(
    st.builds(
        SynStream,
        stream_ids,
        headers,
        st.integers(0, 2**31 - 1),
        st.integers(0, 7),
        st.integers(0, 255),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(SynReply, stream_ids, headers, st.booleans()),
    st.builds(HeadersFrame, stream_ids, headers, st.booleans()),
    st.builds(RstStream, stream_ids, st.integers(1, 2**32 - 1)),
    st.builds(
        Settings,
        st.lists(st.tuples(st.integers(0, 2**24 - 1), st.integers(0, 255), words), max_size=8).map(tuple),
        st.booleans(),
    ),
    st.builds(Ping, words),
    st.builds(GoAway, st.integers(0, 2**31 - 1), words),
    st.builds(WindowUpdate, st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1)),
)
frames = st.one_of(control_frames, st.builds(Data, stream_ids, st.binary(max_size=300), st.booleans()))


def join_data(decoded):
    """Frames with neighbouring data of one stream joined, since cuts between data frames do not show."""
    joined = []
    for frame in decoded:
        last = joined[-1] if joined else None
        if isinstance(frame, Data) and isinstance(last, Data) and last.stream_id == frame.stream_id and not last.fin:
            joined[-1] = Data(frame.stream_id, last.data + frame.data, fin=frame.fin)
        else:
            joined.append(frame)
    return joined


@given(st.lists(frames, max_size=10), st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_what_is_encoded_is_decoded_wherever_it_is_cut(sent, cuts):
    encoder, decoder = FrameEncoder(), FrameDecoder()
    wire = b"".join(encoder.encode(frame) for frame in sent)
    received = []
    position = index = 0
    while position < len(wire):
        size = cuts[index % len(cuts)]
        received += decoder.feed(wire[position : position + size])
        position, index = position + size, index + 1
    assert join_data(received) == join_data(sent)


@given(st.binary(max_size=400))
@settings(max_examples=500)
def test_any_bytes_are_frames_or_an_error(garbage):
    try:
        FrameDecoder().feed(garbage)
    except SpdyError:
        pass


@given(st.lists(frames, min_size=1, max_size=5), st.data())
@settings(max_examples=300)
def test_flipped_bytes_are_frames_or_an_error(sent, data):
    encoder, decoder = FrameEncoder(), FrameDecoder()
    wire = bytearray(b"".join(encoder.encode(frame) for frame in sent))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoder.feed(bytes(wire))
    except SpdyError:
        pass


def test_bytes_on_the_wire_are_those_of_the_draft():
    encoder = FrameEncoder()
    assert encoder.encode(Data(3, b"hi", fin=True)) == bytes.fromhex("00000003 01000002 6869")
    assert encoder.encode(Ping(2)) == bytes.fromhex("80030006 00000004 00000002")
    assert encoder.encode(RstStream(5, 1)) == bytes.fromhex("80030003 00000008 00000005 00000001")
    assert encoder.encode(GoAway(7)) == bytes.fromhex("80030007 00000008 00000007 00000000")
    assert encoder.encode(WindowUpdate(1, 9)) == bytes.fromhex("80030009 00000008 00000001 00000009")
    assert encoder.encode(Settings(((7, 1, 65536),))) == bytes.fromhex("80030004 0000000c 00000001 01000007 00010000")


def test_headers_are_compressed_with_the_dictionary():
    wire = FrameEncoder().encode(SynStream(1, {"streamtype": "error"}))
    kind, length = struct.unpack(">II", wire[:8])
    assert (kind, length) == (0x80030001, len(wire) - 8)
    block = zlib.decompressobj(zdict=DICTIONARY).decompress(wire[18:])
    assert block == b"\0\0\0\1\0\0\0\nstreamtype\0\0\0\5error"
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def test_dictionary_is_that_of_the_draft():
    assert len(DICTIONARY) == 1423
    assert DICTIONARY.startswith(b"\0\0\0\7options\0\0\0\4head")
    assert DICTIONARY.endswith(b",enq=0.")


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param("00000000 00000001 61", id="data of stream 0"),
        pytest.param("80020006 00000004 00000002", id="another version"),
        pytest.param("80030006 00000003 000002", id="short ping"),
        pytest.param("80030006 00000005 0000000200", id="long ping"),
        pytest.param("80030003 00000008 00000000 00000001", id="reset of stream 0"),
        pytest.param("80030003 00000008 00000001 00000000", id="reset without a status"),
        pytest.param("80030004 00000004 00000001", id="settings cut off"),
        pytest.param("80030004 00000004 ffffffff", id="settings that lie"),
        pytest.param("80030009 00000008 00000001 00000000", id="window update of nothing"),
        pytest.param("80030001 00000004 00000001", id="short SYN_STREAM"),
        pytest.param("80030002 00000008 00000001 deadbeef", id="headers that are not compressed"),
        pytest.param("80030001 00ffffff", id="huge control frame"),
    ],
)
def test_broken_frames_are_errors(wire):
    with pytest.raises(SpdyError):
        FrameDecoder().feed(bytes.fromhex(wire))


def compress(block):
    deflate = zlib.compressobj(zdict=DICTIONARY)
    return deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)


def reply(block):
    payload = struct.pack(">I", 1) + compress(block)
    return struct.pack(">II", 0x80030002, len(payload)) + payload


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"", id="empty"),
        pytest.param(struct.pack(">I", 1_000_000), id="too many"),
        pytest.param(b"\0\0\0\1\0\0\0\1A\0\0\0\1v", id="upper case"),
        pytest.param(b"\0\0\0\1\0\0\0\0\0\0\0\1v", id="no name"),
        pytest.param(b"\0\0\0\2" + b"\0\0\0\1a\0\0\0\1v" * 2, id="twice"),
        pytest.param(b"\0\0\0\1\0\0\0\1a\xff\xff\xff\xffv", id="cut off"),
        pytest.param(b"\0\0\0\0x", id="too long"),
        pytest.param(b"\0\0\0\1\0\0\0\1a" + struct.pack(">I", 50_000_000) + b"v" * 50_000_000, id="bomb"),
    ],
)
def test_broken_headers_are_errors(block):
    with pytest.raises(SpdyError):
        FrameDecoder().feed(reply(block))


def test_unknown_control_frames_are_passed_over():
    unknown = bytes.fromhex("8003000b 00000002 abcd")
    assert FrameDecoder().feed(unknown + FrameEncoder().encode(Ping(1))) == [Ping(1)]


def test_long_data_is_handed_on_as_it_comes():
    decoder = FrameDecoder()
    wire = struct.pack(">II", 1, 1 << 24 | 1_000_000)
    assert decoder.feed(wire) == []
    assert decoder.feed(b"a" * 10) == [Data(1, b"a" * 10)]
    assert decoder.feed(b"b" * 999_990 + FrameEncoder().encode(Ping(1))) == [
        Data(1, b"b" * 999_990, fin=True),
        Ping(1),
    ]


def test_control_frame_that_drips_in_costs_little():
    wire = FrameEncoder().encode(Settings(tuple((n, 0, n) for n in range(30_000))))
    assert len(wire) < MAX_CONTROL_BYTES
    decoder = FrameDecoder()
    frames = []
    for position in range(len(wire)):
        frames += decoder.feed(wire[position : position + 1])
    assert len(frames) == 1
    assert len(frames[0].entries) == 30_000


def test_headers_too_long_to_send_are_an_error():
    with pytest.raises(ValueError, match="too long"):
        FrameEncoder().encode(SynStream(1, {"a": "x" * 100_000}))
