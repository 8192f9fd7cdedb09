"""How often the joint law's 95 % intervals hold the truth, and how wide they are beside an oracle's.

    OMP_NUM_THREADS=1 python benchmarks/law_coverage.py [studies=8] [draws=200] [only=5]

Made-up studies of five sizes and five budgets, a factor of 2 apart, on a known surface. For each kind: the share of
intervals that hold the true law (inside the data; a factor of 2 out in size, data and both; of the latter, those that
the study's own hold-outs reach), and one new run; the width of the law's interval over that of an oracle that knows the
form and learns only how large the noise is, from as many seeds (beside one that knows that too, multiply by 1.31 for
two seeds and 1.14 for three), mean over studies; the share that holds the true exponents; and how often misfit is
recognised (p < 0.01). `only`: one kind, by its place. A study with its hold-outs takes about two seconds of a core.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

KAPLAN = "Kaplan's"


def main(studies: int = 8, draws: int = 200, only: int = 0) -> None:
    from tests.support.known_surface import LOSS
    from tests.support.law_studies import INSIDE, OUTSIDE, Case, coverage

    cases = (
        Case("2 seeds, 1 %"),
        Case("3 seeds, 2 %", seeds=3, of_seed=0.02, of_evaluation=0.01),
        Case("2 seeds, 10 %, an outlier", of_seed=0.09, of_evaluation=0.045, outlier=1.5),
        Case("2 seeds, 0.3 %", of_seed=0.003, of_evaluation=0.0015),
        Case("sizes off by 1 %", of_size=0.01),
        Case("another form, 1 %", surface=replace(LOSS, form=KAPLAN)),
    )
    columns = ("law inside", "law out", "of validated", "new run", "width inside", "width out", "exponents", "misfit")
    print(f"{'':28}" + "".join(f"{name:>14}" for name in columns) + f"{'s a study':>12}")
    for case in cases if not only else cases[only - 1 : only]:
        began = time.process_time()
        out = coverage(case, OUTSIDE, studies, draws=draws, held_out=True)
        spent = (time.process_time() - began) / studies
        inside = coverage(case, INSIDE, studies, draws=draws)
        told = f"{np.mean(out.law[out.counted]):.1%} of {out.counted.mean():.0%}" if out.counted.any() else "none"
        numbers = (
            f"{inside.law.mean():.1%}",
            f"{out.law.mean():.1%}",
            told,
            f"{np.mean([inside.new_run, out.new_run]):.1%}",
            f"{inside.width.mean():.2f}",
            f"{out.width.mean():.2f}",
            f"{out.exponents.mean():.1%}" if case.surface.form != KAPLAN else "-",
            f"{(out.p < 0.01).mean():.0%}",
        )
        print(f"{case.name:28}" + "".join(f"{number:>14}" for number in numbers) + f"{spent:>12.1f}", flush=True)


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (word.split("=") for word in sys.argv[1:])})
