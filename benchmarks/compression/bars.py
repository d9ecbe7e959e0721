"""The issue's bars and the papers' orders, checked on the results."""

from __future__ import annotations

import itertools

from benchmarks.compression.catalogue import BUDGETS, DIMENSION, RECURRENT, SIGN, SYMMETRIC, TRAINING_FREE
from benchmarks.compression.measures import paired_interval
from benchmarks.compression.quality import FLOAT
from benchmarks.compression.summary import BARRED, Measured, group, over_sets

All = dict[str, dict[str, Measured]]
Line = tuple[str, str, str]  # what, figures, verdict

PASS, MISS, NONE = "pass", "**miss**", "not measured"
TRAINED = (RECURRENT, "FAISS PQ", "FAISS OPQ")
LEARNED_MEASURES = ("r10@100", "nDCG@10 codes")


def check(all_: All, added: str = "") -> list[Line]:
    """Return every bar over the barred sets; `added` is "+distill" for the sets with distractors."""
    names = [name + added for name in BARRED if name + added in all_]
    return [*_reranked(all_, names), *_codes_alone(all_, names), *_orders(all_, names), *_learned(all_, names)]


def _verdict(passed: bool) -> str:
    return PASS if passed else MISS


def _reranked(all_: All, names: list[str]) -> list[Line]:
    """Recall@10 after a rerank of 20 is the share of the exact ten among the best 20 by codes."""
    out = []
    for label, method, least in (
        ("4 bits", f"{TRAINING_FREE}, 4 x {DIMENSION}", 0.99),
        ("2 bits", f"{TRAINING_FREE}, 2 x {DIMENSION}", 0.97),
        ("first 2 of 4 bits", f"{TRAINING_FREE}, first 2 of 4 x {DIMENSION}", 0.97),
    ):
        found = {name: all_[name][method] for name in names if method in all_[name]}
        figures = ", ".join(f"{name} {one.mean('r10@20'):.4f}" for name, one in found.items())
        whole = len(found) == len(names) > 0
        verdict = _verdict(all(one.mean("r10@20") >= least for one in found.values())) if whole else NONE
        out.append((f"{label}, all {DIMENSION} dimensions: recall@10 after rerank of 20 >= {least}", figures, verdict))
    return out


def _codes_alone(all_: All, names: list[str]) -> list[Line]:
    method, measure = f"{TRAINING_FREE}, 4 x {DIMENSION}", "nDCG@10 codes"
    figures, passed = [], []
    for name in (name for name in names if method in all_[name]):
        whole = all_[name][FLOAT].mean(measure)
        change = _difference(all_, [name], method, FLOAT, measure)
        mean, low, high = (100 * value / whole for value in change)
        figures.append(f"{name} {mean:+.2f} % ({low:+.2f} to {high:+.2f})")
        passed.append(abs(mean) <= 0.5 or mean > 0)
    verdict = _verdict(all(passed)) if len(passed) == len(names) > 0 else NONE
    return [("4 bits, codes alone: nDCG@10 within 0.5 % of float", ", ".join(figures), verdict)]


def _orders(all_: All, names: list[str]) -> list[Line]:
    """Hamming < symmetric < asymmetric at one size of code."""
    out = []
    for measure in ("r10@10", "nDCG@10 codes"):  # deeper, all of them find everything
        for bits in (2, 4):
            asymmetric, symmetric = (f"{family}, {bits} x {DIMENSION}" for family in (TRAINING_FREE, SYMMETRIC))
            chain = (f"{SIGN}, {DIMENSION} bits", symmetric, asymmetric)
            out.append(_rising(all_, names, measure, chain, "Hamming < symmetric < asymmetric"))
        for budget in BUDGETS[:3]:
            at_budget = _methods(all_, names, budget, RECURRENT)
            hashed = _best(all_, names, measure, [m for m in at_budget if ", 1 x " in m])
            recurrent = _best(all_, names, measure, [m for m in at_budget if ", 1 x " not in m])
            chain_ = tuple(m for m in (hashed, recurrent) if m)
            if len(chain_) == 2:
                out.append(_rising(all_, names, measure, chain_, f"learned hash < recurrent, {budget} bytes"))
    return out


def _rising(all_: All, names: list[str], measure: str, chain: tuple[str, ...], what: str) -> Line:
    """Check an order. Where a step falls but the paired interval of its difference holds zero, it is a tie."""
    values = [over_sets(all_, names, method, measure) for method in chain]
    if None in values:
        return f"{what} ({measure})", "", NONE
    figures = " < ".join(_value(all_, names, method, measure) for method in chain)
    steps = [_difference(all_, names, b, a, measure) for a, b in itertools.pairwise(chain)]
    tie = all(mean > 0 or high >= 0 for mean, _, high in steps)
    verdict = PASS if all(mean > 0 for mean, _, _ in steps) else "tie" if tie else MISS
    return f"{what} ({measure})", figures, verdict


def _difference(all_: All, names: list[str], a: str, b: str, measure: str) -> tuple[float, float, float]:
    """Return the mean of a - b over sets, with its 95 % interval."""
    return paired_interval([(all_[n][a].queries[measure], all_[n][b].queries[measure]) for n in names])


def _learned(all_: All, names: list[str]) -> list[Line]:
    """Compare the best recurrent code of each budget with the best one without training, and the best trained peer."""
    out = []
    for budget, measure in itertools.product(BUDGETS, LEARNED_MEASURES):
        ours = _best(all_, names, measure, _methods(all_, names, budget, RECURRENT))
        others = _methods(all_, names, budget, "")
        trained = {m for m in others if all_[names[0]][m].family.startswith(TRAINED)}
        goal = "beats" if budget <= 32 else "is not behind"
        for rivals, what, barred in (
            ([m for m in others if m not in trained], f"{goal} every training-free code", True),
            ([m for m in trained if "PQ" in m], "against trained peers (no bar)", False),
        ):
            rival = _best(all_, names, measure, rivals)
            title = f"{budget} bytes: recurrent {what} ({measure})"
            if ours is None or rival is None:
                figures = f"to beat: {_value(all_, names, rival, measure)}" if rival else ""
                out.append((title, figures, NONE))
                continue
            mean, low, high = _difference(all_, names, ours, rival, measure)
            versus = " against ".join(_value(all_, names, m, measure) for m in (ours, rival))
            passed = mean > 0 if budget <= 32 else high >= 0
            verdict = _verdict(passed) if barred else "ahead" if mean > 0 else "behind"
            out.append((title, f"{versus}: {mean:+.4f} ({low:+.4f} to {high:+.4f})", verdict))
    return out


def _methods(all_: All, names: list[str], budget: int, family: str) -> list[str]:
    """Return the methods of a family at a budget that were measured on all the sets. Never above the budget's bytes."""
    if not names:
        return []
    return [
        method
        for method, one in all_[names[0]].items()
        if one.family.startswith(family)
        and one.bytes <= budget
        and group(one.bytes) == budget
        and all(method in all_[name] for name in names)
    ]


def _best(all_: All, names: list[str], measure: str, methods: list[str]) -> str | None:
    scored = [(over_sets(all_, names, method, measure) or 0.0, method) for method in methods]
    return max(scored)[1] if scored else None


def _value(all_: All, names: list[str], method: str, measure: str) -> str:
    return f"{method} {over_sets(all_, names, method, measure):.4f}"
