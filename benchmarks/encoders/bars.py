"""The bars that the encoders were set, against what was measured."""

from __future__ import annotations

from benchmarks.encoders.contestants import INT8, STATIC, STUDENT, TEACHER, Exit
from benchmarks.encoders.quality import SETS
from benchmarks.encoders.summary import PEER_EXIT, STATIC_EXIT, TEACHER_EXIT, Measured, full

Line = tuple[str, str, str]
NOT_MEASURED = "not measured"


def check(found: Measured, exits: list[Exit]) -> list[Line]:
    """Return bar, what was measured, verdict; figures are means over the three sets, times those of one thread."""
    lines = [_student(found, one) for one in exits if one.name == STUDENT]
    lines += [_static(found), _symmetric(found)]
    teachers = [one for one in exits if one.name in (TEACHER, INT8)]
    lines += [_served(found, one, threads) for one in teachers for threads in (1, 2)]
    lines += [_asymmetric(found, one) for one in exits if one not in teachers]
    return lines


def _kept(found: Measured, documents: str, one: Exit) -> tuple[float, str] | None:
    kept = found.kept(documents, full(one))
    if kept is None:
        return None
    sets = []
    for name in SETS:
        own, base = found.value(name, documents, full(one)), found.value(name, TEACHER, full(TEACHER_EXIT))
        sets.append(f"{name} {own / base:.1%}" if own is not None and base else name)
    return kept[0], f"{kept[0]:.1%} ({kept[1]:.1%} to {kept[2]:.1%}; {', '.join(sets)})"


def _verdict(passed: bool, better: bool | None = None) -> str:
    if not passed:
        return "**miss**"
    return "pass, and the aim" if better else "pass"


def _student(found: Measured, one: Exit) -> Line:
    bar = f"{one.title}: at most 1/4 of the teacher's query time, keeps >= 95 % (aim: 98 %)"
    return _cheaper(found, bar, one, TEACHER_EXIT, times=4, least=0.95, aim=0.98)


def _static(found: Measured) -> Line:
    bar = "static: at most 1/100 of the query time of sentence-transformers in float32, keeps >= 87 % (aim: 92 %)"
    return _cheaper(found, bar, STATIC_EXIT, PEER_EXIT, times=100, least=0.87, aim=0.92)


def _cheaper(found: Measured, bar: str, one: Exit, peer: Exit, *, times: int, least: float, aim: float) -> Line:
    """Check that an exit takes a share of a peer's query time and keeps enough with documents of the teacher."""
    kept, own, base = _kept(found, TEACHER, one), found.milliseconds(full(one)), found.milliseconds(full(peer))
    if kept is None or own is None or base is None:
        return bar, "", NOT_MEASURED
    said = f"1/{base / own:.{1 if times < 10 else 0}f} of the time, {kept[1]}"
    return bar, said, _verdict(own <= base / times and kept[0] >= least, kept[0] >= aim)


def _symmetric(found: Measured) -> Line:
    bar = "static for documents too: at least 20 times the teacher's documents a second, keeps >= 72 %"
    kept, own, base = _kept(found, STATIC, STATIC_EXIT), found.rate(STATIC_EXIT), found.rate(TEACHER_EXIT)
    if kept is None or own is None or base is None:
        return bar, "", NOT_MEASURED
    return bar, f"{own / base:.0f} times the rate, {kept[1]}", _verdict(own >= 20 * base and kept[0] >= 0.72)


def _served(found: Measured, one: Exit, threads: int) -> Line:
    said = "one thread" if threads == 1 else f"{threads} threads"
    bar = f"{one.title}, {said}: at most half of the query time of sentence-transformers, nDCG@10 within 0.5 %"
    own, base = (found.milliseconds(full(each), threads) for each in (one, PEER_EXIT))
    ours, theirs = (found.mean(TEACHER, full(each)) for each in (one, PEER_EXIT))
    if own is None or base is None or ours is None or theirs is None:
        return bar, "", NOT_MEASURED
    said = f"1/{base / own:.1f} of the time ({own:.2f} ms against {base:.2f} ms), nDCG@10 {ours / theirs - 1:+.2%}"
    return bar, said, _verdict(own <= base / 2 and abs(ours / theirs - 1) <= 0.005)


def _asymmetric(found: Measured, one: Exit) -> Line:
    bar = f"{one.title}: teacher documents are at least as good as its own"
    documents = STATIC if one.name == STATIC else STUDENT
    teacher, own = found.mean(TEACHER, full(one)), found.mean(documents, full(one))
    if teacher is None or own is None:
        return bar, "", NOT_MEASURED
    return bar, f"nDCG@10 {teacher:.4f} against {own:.4f}", _verdict(teacher >= own)
