"""How does Bitfold compare with other vector engines, on the same vectors, one core, one run? See `docs/benchmarks.md`.

python -m benchmarks.peers measure --work DIR --real FILE --queries FILE --synthetic 1000000
python -m benchmarks.peers report --work DIR
"""
