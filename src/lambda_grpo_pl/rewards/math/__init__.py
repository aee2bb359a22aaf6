"""The mathematics verifier: find the answer in a response, normalize it, and decide whether it equals the gold.

answers.py          the rewards math, numeric, exact, multiple_choice; lenient.py: math_lenient
extraction.py       response → answer as written
normalization.py    answer → one spelling; units.py: units behind a value
quantities.py       plain numbers, exactly, and probe.py everyday expressions at a point: both inline
structure.py        lists, assignments, systems, tuples, vectors
equivalence.py      are two answers equal? Structure first, then algebra.py with math-verify; in workers only
"""
