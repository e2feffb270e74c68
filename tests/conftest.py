"""What all tests share: seeds for simulations, Hypothesis's profile, and GPU detection."""

import functools

import hypothesis
import pytest

# Derandomised: a test fails for everyone or for no one. No deadline, since a busy
# machine is not a bug; the pytest timeout catches what hangs.
hypothesis.settings.register_profile("cw", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cw")


def pytest_addoption(parser):
    parser.addoption(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="run each test that takes a `seed` with the seeds 0..N-1 (default: %(default)s)",
    )
    parser.addoption(
        "--seed",
        type=int,
        default=None,
        metavar="SEED",
        help="run each test that takes a `seed` with this one, to have a failure again",
    )


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        one = metafunc.config.getoption("--seed")
        count = metafunc.config.getoption("--seeds")
        metafunc.parametrize("seed", range(count) if one is None else [one])


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and (reason := why_no_gpu()):
            item.add_marker(pytest.mark.skip(reason=reason))


@functools.cache
def why_no_gpu() -> str:
    """Say why CUDA cannot be used here, or return the empty string.

    Only asked when a test wants a GPU: the driver is asked, not torch, which takes a
    second to import.
    """
    try:
        from cuda.bindings import driver

        (status,) = driver.cuInit(0)
        status, count = driver.cuDeviceGetCount()
    except ImportError as error:
        return f"no GPU: cuda-python is not installed ({error})"
    except Exception as error:  # cuda.bindings raises types of its own where libcuda.so is missing
        return f"no GPU: the CUDA driver cannot be loaded ({type(error).__name__})"
    if status != driver.CUresult.CUDA_SUCCESS or count == 0:
        return f"no GPU: the CUDA driver answers {status!r}, {count} devices"
    return ""
