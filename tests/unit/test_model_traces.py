"""Traces that know what each request was for: read as published, laid on models as said."""

import gzip
from collections import Counter
from pathlib import Path

import pytest

from cw.errors import ConfigError
from cw.units import SECOND
from cw.workload.model_traces import Layout, read_minute_counts, read_requests
from cw.workload.trace_files import read_counts

AZURE_2021 = """app,func,end_timestamp,duration
a1,f1,10.5,0.5
a1,f2,11.25,1.0
a2,f1,12.0,0.0
a2,f3,12.5,0.25
"""
ALIBABA = """gmt_create,predict_type,exec_time_seconds,checkpoint_model_version_id,num_lora
2024-11-15 16:57:51,TXT_2_IMG,32.0,M0001,0
2024-11-15 16:57:50,TXT_2_IMG,43.0,M0000,0
2024-11-15 16:57:50,TXT_2_IMG,36.0,M0001,1
2024-11-15 16:57:52,IMG_2_IMG,12.0,M0002,0
2024-11-15 16:57:52,IMG_2_IMG,12.0,M0000,0
2024-11-15 16:57:53,IMG_2_IMG,12.0,M0001,0
"""


def azure_2019(*rows):
    header = "HashOwner,HashApp,HashFunction,Trigger,1,2,3"
    return "\n".join([header, *rows]) + "\n"


@pytest.fixture
def written(tmp_path):
    def write(text: str, *, name: str = "trace.csv", packed: bool = False) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        return path

    return write


def test_invocations_begin_before_their_end(written):
    """The trace of 2021 has ends and durations: arrivals at the ends would be late by seconds."""
    recording = read_requests(written(AZURE_2021), models=(0, 1, 2), slo_ns=5)

    assert [ns / SECOND for ns in recording.instants_ns] == [0.0, 0.25, 2.0, 2.25]
    assert recording.grain_ns == 0
    assert list(recording.places) == [0, 1, 0, 2]


@pytest.mark.parametrize("packed", [False, True])
def test_the_top_models_of_a_trace_are_taken_and_the_others_left_out(written, packed):
    """87 models on 2: the long tail would else be added to models that never had it."""
    path = written(ALIBABA, packed=packed)
    recording = read_requests(path, models=(4, 9), slo_ns=5, layout=Layout.TOP)
    calls = list(recording.calls(seed=1, duration_ns=60 * SECOND))

    assert Counter(call.model for call in calls) == {4: 3, 9: 2}
    assert recording.grain_ns == SECOND
    assert [ns // SECOND for ns in recording.instants_ns] == [0, 0, 1, 2, 3]


def test_all_names_are_laid_on_fewer_models_in_blocks(written):
    """Nothing of the load may be lost, and the greatest names come first."""
    recording = read_requests(written(ALIBABA), models=(4, 9), slo_ns=5)

    assert Counter(recording.places) == {0: 5, 1: 1}


def test_functions_with_counts_by_the_minute_are_laid_on_models_by_volume(written):
    """Clockwork's rule: function i of T, by volume, goes to model floor(M * i / T)."""
    path = written(
        azure_2019("o,a,f1,http,1,0,0", "o,a,f2,timer,5,5,5", "o,b,f1,http,0,9,0", "o,c,f4,q,2,0,0")
    )
    counts = read_minute_counts([path], models=2)

    assert counts.tolist() == [[5, 14, 5], [3, 0, 0]]


def test_days_follow_each_other_and_functions_are_known_again(written):
    """The trace comes as a file for each day: model 0 must be the same on all of them."""
    first = written(azure_2019("o,a,f1,http,9,0,0", "o,a,f2,http,1,1,1"), name="d01.csv")
    second = written(azure_2019("o,a,f2,http,2,2,2", "o,a,f3,http,0,0,1"), name="d02.csv")
    counts = read_minute_counts([first, second], models=3)

    assert counts.tolist() == [[9, 0, 0, 0, 0, 0], [1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 1]]


def test_counts_by_the_second_are_read(written):
    """Twitter's trace is one line of numbers."""
    assert read_counts(written("52 55 0\n7\n")) == [52, 55, 0, 7]


@pytest.mark.parametrize("text", ["", "1 2 x", "0 0", "3 -1"])
def test_what_are_no_counts_is_refused_with_its_name(written, text):
    """A silent empty trace would look like a perfect run."""
    with pytest.raises(ConfigError, match=r"trace\.csv"):
        read_counts(written(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,1\n",
        "func,end_timestamp,duration\nf,soon,1\n",
        "func,end_timestamp,duration\n",
    ],
)
def test_what_names_no_models_is_refused_with_its_name(written, text):
    """A trace without names must be replayed with a popularity instead."""
    with pytest.raises(ConfigError, match=r"trace\.csv"):
        read_requests(written(text), models=(0,), slo_ns=1)


@pytest.mark.parametrize("text", ["", azure_2019(), azure_2019("o,a,f,http,1,many,0"), AZURE_2021])
def test_what_has_no_minutes_is_refused_with_its_name(written, text):
    """Another year's file has other columns: say so, rather than count nothing."""
    with pytest.raises(ConfigError, match=r"trace\.csv"):
        read_minute_counts([written(text)], models=1)
