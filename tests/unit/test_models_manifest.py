"""`model.toml` comes from outside: what is accepted is well formed, what is not is named."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.errors import ManifestInvalid
from cw.messages import Datatype, TensorSpec
from cw.models.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    dump_manifest,
    parse_manifest,
)

MANIFEST = Manifest(
    name="minilm",
    description='all-MiniLM "L6", über',
    program_sha256="a" * 64,
    weights_sha256="b" * 64,
    image_bytes=8192,
    inputs=(
        TensorSpec(name="ids", datatype=Datatype.INT64, shape=(32,)),
        TensorSpec(name="mask", datatype=Datatype.BOOL, shape=(32,)),
    ),
    outputs=(TensorSpec(name="embedding", datatype=Datatype.FP32, shape=(384,)),),
    batch_sizes=(1, 2, 4),
    tolerance=1e-05,
)
TEXT = dump_manifest(MANIFEST)


def test_dump_and_parse_are_inverse():
    """What the packer writes is what gateways and executors read."""
    assert parse_manifest(TEXT) == MANIFEST


@given(
    description=st.text().filter(str.isprintable).map(lambda text: text[:500]),
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,127}", fullmatch=True),
    tolerance=st.floats(0, 1),
)
def test_any_valid_manifest_survives_the_round_trip(description, name, tolerance):
    """The TOML is written by hand, so quotes, escapes and float forms must be proved."""
    manifest = attrs.evolve(MANIFEST, description=description, name=name, tolerance=tolerance)

    assert parse_manifest(dump_manifest(manifest)) == manifest


def test_byte_counts_and_spec_follow_from_the_tensors():
    """Gateways bound a request's size by these before they read it."""
    spec = MANIFEST.to_spec()

    assert MANIFEST.input_bytes == 32 * 8 + 32
    assert MANIFEST.output_bytes == 384 * 4
    assert (spec.name, spec.inputs, spec.batch_sizes) == ("minilm", MANIFEST.inputs, (1, 2, 4))
    assert 0 <= spec.model_id < 2**63
    assert spec.model_id != attrs.evolve(MANIFEST, name="other").to_spec().model_id


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("format = 1", "format = 2", "format: expected 1"),
        ("format = 1\n", "", "none of \\['format'\\]"),
        ("format = 1", "format = 1\nextra = 3", "only the keys .* got \\['extra'\\]"),
        ('"minilm"', '"../minilm"', "model name: expected a match"),
        ('"minilm"', '".minilm"', "model name"),
        ('"minilm"', '"a/b"', "model name"),
        ('"minilm"', '"Mini"', "model name"),
        ('"minilm"', '"minilm\\n"', "model name"),
        ('"minilm"', f'"{"m" * 129}"', "model name"),
        ('"minilm"', "7", "model name"),
        ("a" * 64, "A" * 64, "program_sha256: expected 64 lower-case hex digits"),
        ("b" * 64, "b" * 63, "weights_sha256"),
        ("8192", "8191", "image_bytes: expected a multiple of 4096"),
        ("8192", "0", "image_bytes"),
        ("8192", "-4096", "image_bytes"),
        ("8192", "true", "image_bytes"),
        ("8192", "9223372036854771712", "image_bytes"),
        ("[1, 2, 4]", "[2, 4]", "batch_sizes: expected rising ints from 1"),
        ("[1, 2, 4]", "[1, 4, 2]", "batch_sizes"),
        ("[1, 2, 4]", "[1, 2, 2]", "batch_sizes"),
        ("[1, 2, 4]", "[1, 2, 257]", "batch_sizes"),
        ("[1, 2, 4]", "[true, 2, 4]", "batch_sizes"),
        ("[1, 2, 4]", "[]", "batch_sizes"),
        ("[1, 2, 4]", '"1"', "batch_sizes: expected a list"),
        ("1e-05", "nan", "tolerance: expected a number in 0..1"),
        ("1e-05", "inf", "tolerance: expected a number in 0..1"),
        ("1e-05", "-1", "tolerance: expected a number in 0..1"),
        ("1e-05", "1.5", "tolerance"),
        ("1e-05", "true", "tolerance"),
        ("1e-05", "[1e-05]", "tolerance"),
        ('"INT64"', '"BYTES"', "inputs: expected a datatype of BOOL"),
        ('"INT64"', "[]", "inputs: expected a datatype"),
        ("[384]", "[0]", "shape of embedding: expected ints in 1"),
        ("[384]", "[-1, 4]", "shape of embedding"),
        ("[384]", "[1.5]", "shape of embedding"),
        ("[384]", "[16777217]", "shape of embedding: expected at most 67108864 bytes"),
        ("[384]", "[65536, 65536, 65536]", "shape of embedding"),
        ("[384]", "[0x" + "f" * 5000 + "]", "shape of embedding"),
        ("[384]", "[1, 1, 1, 1, 1, 1, 1, 1, 1]", "at most 8 dimensions"),
        ('"mask"', '"ids"', "inputs: expected names that differ"),
        ('"mask"', '"m\\nsk"', "tensor name"),
        ("[[outputs]]", "[outputs]", "outputs: expected a list"),
        ('description = "', 'description = "\\n', "description: expected one printable line"),
        ("format = 1", "format = ", "expected TOML"),
        ("format = 1", "format = " + "[" * 5000, "expected TOML"),
    ],
)
def test_a_bad_field_is_named_with_what_was_expected(old, new, complaint):
    """The owner of a refused model must be able to mend it from the message alone."""
    text = TEXT.replace(old, new)

    assert text != TEXT
    with pytest.raises(ManifestInvalid, match=complaint):
        parse_manifest(text)


def test_an_oversized_manifest_is_refused_before_it_is_parsed():
    """A parser that is handed megabytes is a way to stall a gateway."""
    with pytest.raises(ManifestInvalid, match="at most"):
        parse_manifest("#" * (MAX_MANIFEST_BYTES + 1))


@given(st.text())
def test_no_text_raises_anything_else(text):
    """The callers handle ManifestInvalid and nothing more."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(text)


@given(st.data())
def test_no_mutation_raises_anything_else(data):
    """Valid TOML with a wrong value somewhere is the likelier attack than noise."""
    start = data.draw(st.integers(0, len(TEXT) - 1))
    length = data.draw(st.integers(0, 20))
    patch = data.draw(st.text(alphabet='0123456789[]{}"=-.\n xe', max_size=20))
    text = TEXT[:start] + patch + TEXT[start + length :]

    try:
        manifest = parse_manifest(text)
    except ManifestInvalid:
        return
    assert parse_manifest(dump_manifest(manifest)) == manifest
