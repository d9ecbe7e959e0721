"""What does each way of compressing vectors cost in quality, bytes and time? See `docs/compression.md`.

python -m benchmarks.compression quality --data ../shared/data --cache DIR
python -m benchmarks.compression speed --cache DIR
python -m benchmarks.compression report --cache DIR
"""
