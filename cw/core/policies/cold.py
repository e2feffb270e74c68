"""Cold models where LOADs and INFERs take turns on one lane, as on a CPU.

The concept: what a cold model's batch costs the lane is its LOAD and its INFER. So it stands among
the others, at that price, when the lane is given its next action (`selection.py`); if it is chosen
its LOAD goes, and the INFER behind it. Ordered by a rule of their own, LOADs either starve, since
there is always a batch that could run, or starve the batches: 64 models through room for 16 kept
88 % of the bound in simulation, in place of 99.
"""

from itertools import islice

from cw.core.books import Books, ExecutorBooks, Stage
from cw.core.policies.selection import CANDIDATES_MAX, Candidate, renew
from cw.core.residency import Residency
from cw.messages import ModelId


def cold_candidates(
    books: Books, executor: ExecutorBooks, *, allowance_ns: int, now_ns: int
) -> list[Candidate]:
    """List the batches of those who wait for weights that this executor could load.

    Args:
        books: For what a LOAD takes.
        executor: Whose lane is soon free.
        allowance_ns: Held requests are due so long before their deadlines, or earlier.
        now_ns: Cluster time.
    """
    candidates: list[Candidate] = []
    spent: list[ModelId] = []
    start_ns, overhead_ns = executor.start_ns(now_ns), executor.pipe.overhead_ns
    for model_id, place in islice(executor.wanted.items(), CANDIDATES_MAX):
        model = place.model
        if model.serving or not model.queue or place.stage is not Stage.READY:
            spent.append(model_id)
            continue
        if place.residency is not Residency.COLD:
            continue
        size_bytes = model.spec.image_bytes
        load_ns = books.profiles.load_ns(executor.device, size_bytes) + overhead_ns
        typical_ns = books.profiles.typical_load_ns(executor.device, size_bytes) + overhead_ns
        candidate = Candidate(place, model.queue[0])
        renew(candidate, place, start_ns + load_ns + overhead_ns, overhead_ns, allowance_ns)
        if candidate.count:
            candidate.cost_ns += load_ns
            candidate.share_ns += typical_ns
            candidates.append(candidate)
    for model_id in spent:
        del executor.wanted[model_id]
    return candidates
