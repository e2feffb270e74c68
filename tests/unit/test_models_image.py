"""Images: what the writer lays out, safetensors reads; what a stranger claims, nobody believes."""

import io
import json
import mmap
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from cw.errors import ArchiveInvalid
from cw.models.image import MAX_HEADER_BYTES, WeightsImage, read_layout
from cw.models.image_writer import plan_image, write_image

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.float16),
    "flags": np.array([True, False, True]),
    "big": np.arange(5000, dtype=np.uint8),
}
DATATYPES = {
    "a.weight": "FP32",
    "scalar": "INT64",
    "empty": "FP16",
    "flags": "BOOL",
    "big": "UINT8",
}


def plan():
    return plan_image((name, DATATYPES[name], array.shape) for name, array in ARRAYS.items())


def buffers():
    return {name: memoryview(array.tobytes()) for name, array in ARRAYS.items()}


@pytest.fixture
def image_path(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_image(path, plan(), buffers())
    return path


def image_of(header: object, data_bytes: int) -> bytes:
    """Make a file with this header, padded to a page, and zeros for data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 4096)
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def read(content: bytes):
    return read_layout(io.BytesIO(content), len(content))


def tensor(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None):
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def test_an_image_is_aligned_and_states_its_layout(image_path):
    """LOAD copies pages and kernels read tensors: both need the alignment that is promised."""
    with image_path.open("rb") as file:
        layout = read_layout(file, image_path.stat().st_size)

    assert layout == plan().layout
    assert layout.data_start % 4096 == 0
    assert layout.image_bytes == 8192
    assert layout.data_start + layout.image_bytes == image_path.stat().st_size
    assert list(layout.tensors) == list(ARRAYS)
    assert all(place.offset_bytes % 256 == 0 for place in layout.tensors.values())


def test_any_reader_of_safetensors_reads_an_image(image_path):
    """The format is a standard one on purpose: weights can leave cw as they came."""
    with safe_open(image_path, "numpy") as file:
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)


def test_a_mapped_image_holds_the_tensors_at_their_places(image_path):
    """An executor binds views at these offsets and never looks at the header again."""
    with WeightsImage(image_path, populate=True) as image:
        assert image.data.readonly
        assert image.data.nbytes == image.layout.image_bytes
        for name, place in image.layout.tensors.items():
            run = bytes(image.data[place.offset_bytes :][: place.nbytes])
            assert run == ARRAYS[name].tobytes()
            assert place.shape == ARRAYS[name].shape


def test_a_mapped_image_starts_at_a_page(image_path):
    """Pinning and direct reads work on whole pages only."""
    with WeightsImage(image_path) as image:
        view = np.frombuffer(image.data, np.uint8)
        address = view.ctypes.data
        del view

    assert address % mmap.PAGESIZE == 0


def test_closing_is_refused_while_a_view_lives(image_path):
    """Unmapping under a copy in flight would be a crash of the executor."""
    image = WeightsImage(image_path)
    view = np.frombuffer(image.data, np.uint8)

    with pytest.raises(BufferError):
        image.close()
    del view
    image.close()
    image.close()


def test_a_link_is_not_mapped(image_path, tmp_path):
    """A link in an upload could show any file of the machine to a client."""
    (tmp_path / "link").symlink_to(image_path)

    with pytest.raises(ArchiveInvalid, match="no link"):
        WeightsImage(tmp_path / "link")


def test_the_file_depends_on_its_contents_alone(tmp_path):
    """Two packers of the same weights must agree on their sha256."""
    first = write_image(tmp_path / "1", plan(), buffers())
    second = write_image(tmp_path / "2", plan(), buffers())

    assert first == second
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_an_image_without_tensors_is_one_page(tmp_path):
    """A model without weights is loaded and mapped like any other."""
    write_image(tmp_path / "none", plan_image(()), {})

    with WeightsImage(tmp_path / "none") as image:
        assert (image.layout.image_bytes, dict(image.layout.tensors)) == (4096, {})


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ([("a", "FP32", (1,)), ("a", "FP32", (1,))], "used twice"),
        ([("__pad.0", "UINT8", (1,))], "reserved"),
        ([("__metadata__", "UINT8", (1,))], "used twice or is reserved"),
        ([("a", "COMPLEX64", (1,))], "datatype"),
    ],
)
def test_a_plan_refuses_what_a_header_cannot_say(tensors, complaint):
    """Such a file would be refused at upload, far from the code that made it."""
    with pytest.raises(ArchiveInvalid, match=complaint):
        plan_image(tensors)


def test_writing_other_tensors_than_planned_is_refused(tmp_path):
    """A weight set of another architecture must not be written under this program."""
    wrong_names = {**buffers(), "more": memoryview(b"x")}
    wrong_size = {**buffers(), "scalar": memoryview(bytes(9))}

    with pytest.raises(ArchiveInvalid, match="missing or too many: more"):
        write_image(tmp_path / "1", plan(), wrong_names)
    with pytest.raises(ArchiveInvalid, match="expected 8 bytes of tensor 'scalar'"):
        write_image(tmp_path / "2", plan(), wrong_size)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "got 0 bytes"),
        (b"1234567", "got 7 bytes"),
        (struct.pack("<Q", 1) + bytes(9000), "expected a header of 2"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + bytes(64), "expected a header of 2"),
        (struct.pack("<Q", 2**64 - 1) + bytes(64), "expected a header of 2"),
        (struct.pack("<Q", 4088) + bytes(64), "cut short"),
        (image_of({}, 0), "1 to .* bytes of data, got 0"),
        (image_of({}, 4095), "starts and ends at a multiple of 4096"),
        (struct.pack("<Q", 2) + b"{}" + bytes(4096), "repack it with `cw model pack`"),
        (image_of(b"[]", 4096), "JSON object, got list"),
        (image_of(b"{", 4096), "expected a JSON header"),
        (image_of(b'{"a":' * 5000, 4096), "expected a JSON header"),
        (image_of(b"\xff{}", 4096), "expected a JSON header"),
        (image_of(b'{"a":1,"a":2}', 4096), "given twice"),
        (image_of(b'{"a":' + b"9" * 5000 + b"}", 4096), "expected a JSON header"),
        (image_of({"__metadata__": {"a": 1}}, 4096), "__metadata__"),
        (image_of({}, 4096), "the tensors end at 0, the data at 4096"),
        (image_of({"a": 1}, 4096), "dtype, shape and data_offsets only"),
        (image_of({"a": {**tensor(0, 4096), "x": 1}}, 4096), "data_offsets only"),
        (image_of({"": tensor(0, 4096)}, 4096), "tensor names"),
        (image_of({"a\n": tensor(0, 4096)}, 4096), "tensor names"),
        (image_of({"a" * 513: tensor(0, 4096)}, 4096), "tensor names"),
        (image_of({"a": tensor(0, 4096, "F8_E4M3")}, 4096), "a dtype of BOOL"),
        (image_of({"a": tensor(0, 4096, shape=[-4096])}, 4096), "the shape of 'a'"),
        (image_of({"a": tensor(0, 4096, shape=[True])}, 4096), "the shape of 'a'"),
        (image_of({"a": tensor(0, 4096, shape=[4096.0])}, 4096), "the shape of 'a'"),
        (image_of({"a": tensor(0, 4096, shape=[1] * 17)}, 4096), "the shape of 'a'"),
        (image_of({"a": tensor(0, 4096, shape=[2**70])}, 4096), "the shape of 'a'"),
        (image_of({"a": tensor(0, 4096, "F32")}, 4096), "should take 16384 bytes"),
        (image_of({"a": tensor(0, 4096, shape=[2**36, 2**36])}, 4096), "should take"),
        (image_of({"a": tensor(256, 4096)}, 4096), "should start at 0"),
        (image_of({"a": tensor(0, 512), "b": tensor(256, 4096)}, 4096), "should start at 512"),
        (image_of({"a": tensor(0, 512), "b": tensor(768, 4096)}, 4096), "should start at 512"),
        (image_of({"b": tensor(512, 4096), "a": tensor(0, 512)}, 4096), "should start at 0"),
        (image_of({"a": tensor(0, 8192)}, 4096), "after the end of the data"),
        (image_of({"a": tensor(0, 2048)}, 4096), "the tensors end at 2048"),
        (image_of({"a": tensor(0, 100), "b": tensor(100, 4096)}, 4096), "multiple of 256"),
    ],
)
def test_a_header_that_lies_is_refused(content, complaint):
    """Each of these would have an executor read, or bind, what is not the model's."""
    with pytest.raises(ArchiveInvalid, match=complaint):
        read(content)


def test_a_file_shorter_than_it_was_is_refused():
    """The size and the bytes may disagree when an upload is changed while it is read."""
    content = image_of({"a": tensor(0, 4096)}, 4096)

    with pytest.raises(ArchiveInvalid, match="cut short at 92 of 4088"):
        read_layout(io.BytesIO(content[:100]), len(content))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content):
    """Executors handle ArchiveInvalid and nothing more."""
    with pytest.raises(ArchiveInvalid):
        read(content)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "I64"]) | values,
        "shape": st.lists(st.integers(-1, 4096), max_size=3) | values,
        "data_offsets": st.lists(st.sampled_from([0, 256, 512, 4096]), max_size=3) | values,
    }
)


@given(st.dictionaries(st.text(max_size=8), entries | values, max_size=4))
def test_no_header_raises_anything_else(header):
    """Headers that are nearly right reach every check; what passes them all is true."""
    content = image_of(header, 4096)
    try:
        layout = read(content)
    except ArchiveInvalid:
        return
    for place in layout.tensors.values():
        assert 0 <= place.offset_bytes <= place.offset_bytes + place.nbytes <= 4096


@given(st.data())
def test_no_flipped_byte_raises_anything_else(data):
    """One damaged byte in a good header is refused, or changes nothing that matters."""
    good = plan().header + bytes(plan().layout.image_bytes)
    position = data.draw(st.integers(0, 1200))
    damaged = bytearray(good)
    damaged[position] = data.draw(st.integers(0, 255))
    try:
        layout = read(bytes(damaged))
    except ArchiveInvalid:
        return
    assert layout.image_bytes == plan().layout.image_bytes
