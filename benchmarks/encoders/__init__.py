"""What does each encoder cost and keep, at each of its sizes? See `docs/encoders.md`.

python -m benchmarks.encoders quality --work DIR
python -m benchmarks.encoders speed --work DIR
python -m benchmarks.encoders footprint --work DIR
python -m benchmarks.encoders report --work DIR
"""
