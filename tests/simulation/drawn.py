"""Worlds drawn from a number: small, short, and of every kind that there is."""

import random

from cw.core.policies import POLICIES

WORLDS_PER_SEED = 100

# Every second world is of the policy that is there to be used.
_POLICIES = [name for other in POLICIES if other != "default" for name in ("default", other)]


def world_text(number: int) -> str:
    """Write the arguments of ``python -m cw.sim`` for the `number`-th world.

    What is drawn is meant to hurt: loads around and above what the devices can do, more models than
    pages, tight and loose SLOs, wrong clocks, callers that leave, and mostly some faults.
    """
    rng = random.Random(f"world {number}")
    executors = rng.choice([1, 1, 2, 3])
    profile, full_rps = rng.choice([("cpu-resnet18", 900), ("v100", 700), ("fixed-2ms", 400)])
    models = rng.choice([1, 2, 5, 12])
    words = [
        f"--policy {_POLICIES[number % len(_POLICIES)]} --seed {number} --profile {profile}",
        f"--executors {executors} --gateways {rng.choice([1, 2])} --models {models}",
        f"--rate {round(full_rps * executors * rng.choice([0.1, 0.4, 0.8, 1.5]))}",
        f"--slo {rng.choice([10, 25, 50, 100, 400])}ms --seconds 0.5",
        f"--arrivals {rng.choice(['poisson', 'poisson', 'bursts', 'constant'])}",
        f"--popularity {rng.choice(['uniform', 'zipf:0.9'])}",
        f"--noise {rng.choice([0, 0.003, 0.03])} --outliers {rng.choice([0, 0, 0.001])}",
    ]
    if rng.random() < 0.4:
        words.append(f"--pages {rng.choice([8, 15, 40])}")
    if rng.random() < 0.6:
        words.append(f"--set hold_ratio={rng.choice([0.0, 0.05, 0.25, 0.5, 1.0])}")
    if rng.random() < 0.3:
        words.append("--set objective=gpu_time")
    if rng.random() < 0.3:
        words.append(f"--set fair_share={rng.choice([0.0, 0.9])}")
    if rng.random() < 0.2:
        words.append(f"--delay {rng.choice([1, 3])}ms --jitter {rng.choice([0, 0.5])}ms")
    if rng.random() < 0.2:
        words.append(
            f"--clock-offset {rng.choice([1, 1000])}ms --clock-drift {rng.choice([0, 50])}"
        )
    if rng.random() < 0.2:
        words.append(f"--closed {rng.choice([1, 8])}")
    if rng.random() < 0.2:
        words.append(f"--impatience {rng.choice([0.01, 0.3])}")
    if rng.random() < 0.1:
        words.append("--bandwidth 1GB")
    if rng.random() < 0.66:
        words.append(f"--faults random:{rng.choice([1, 2, 4])}")
    return " ".join(words)
