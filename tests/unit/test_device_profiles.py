"""Profile files of emulated devices: what is shipped reads, what is wrong says where."""

import pytest

from cw.devices.profile_file import SHIPPED, parse_profile, read_profile
from cw.errors import ConfigError

TEXT = """
name = "card"
pages_total = 10
shared_lanes = true
prepare_program = "1s"
prepare_model = "2ms"
load_bytes_per_second = 1_000_000_000
load_overhead = "1ms"
jitter_ratio = 0.5
outlier_probability = 1
outlier = "3us"

[infer]
1 = "2ms"
4 = "5ms"
16 = "11ms"

[programs.abc]
1 = "7ms"
"""


def test_every_shipped_profile_reads():
    """They are data: nothing else would notice a typing error in one before a user does."""
    names = {path.stem for path in SHIPPED.glob("*.toml")}
    profiles = {name: read_profile(name) for name in names}

    assert {"v100", "h100", "cpu-resnet18", "fixed-2ms", "instant"} <= names
    assert profiles["v100"].infer_ns("any", 16) == 17_330_000
    assert profiles["instant"].infer_ns("any", 64) <= 1000
    assert profiles["instant"].load_ns(1 << 30) == 0


@pytest.mark.parametrize(
    ("batch_size", "expected_ms"), [(1, 2), (2, 3), (4, 5), (8, 7), (16, 11), (32, 19)]
)
def test_batch_sizes_between_and_beyond_lie_on_lines(batch_size, expected_ms):
    """A model may be packed with batch sizes that nobody has measured."""
    assert parse_profile(TEXT).infer_ns("other", batch_size) == expected_ms * 1_000_000


def test_a_program_may_have_a_table_of_its_own():
    """So a cluster of unequal models can be emulated."""
    profile = parse_profile(TEXT)

    assert [profile.infer_ns("abc", size) for size in (1, 64)] == [7_000_000, 7_000_000]


def test_a_load_takes_its_bytes_and_an_overhead():
    """Cold starts are planned by this."""
    assert parse_profile(TEXT).load_ns(16_000_000) == 17_000_000


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('name = "card"\n', "", "name"),
        ('name = "card"', 'name = "card"\nlanes = 2', "lanes"),
        ("pages_total = 10", "pages_total = 0", "pages_total: expected a whole number"),
        ("jitter_ratio = 0.5", "jitter_ratio = 1.5", "jitter_ratio: expected a number"),
        ('4 = "5ms"', '4 = "5 parsec"', "parsec"),
        ('4 = "5ms"', '0 = "5ms"', "batch sizes from 1"),
        ('4 = "5ms"', 'four = "5ms"', "four"),
        ("[infer]", "[infer", "TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path, before, after, says):
    """A misspelt key that was skipped would silently emulate another device."""
    path = tmp_path / "mine.toml"
    assert before in TEXT
    path.write_text(TEXT.replace(before, after, 1), "utf-8")

    with pytest.raises(ConfigError) as caught:
        read_profile(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert says in message or says == "TOML"


def test_an_unknown_name_lists_the_known_ones():
    """The reader should not have to look for the folder."""
    with pytest.raises(ConfigError, match="cpu-resnet18, fixed-2ms, h100"):
        read_profile("v1000")
