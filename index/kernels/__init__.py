"""The inner loops of a search, in C: scans and products of codes, walks and their graphs, what is done with the found.

What FAISS has for these takes floats apart for every product of codes of four bits, 300 ns on a walk, a third of that
here, links graphs at a quarter of the speed and looks into inverted lists at half of it (docs/log.md). All arrays are
C-contiguous; what is not float32 or int64 where it must be is converted. Any number of threads may call; Python runs on
meanwhile.
"""

from index.kernels.codes import BLOCK, nearest, nibble_products, plane_products, scan, to_nibbles
from index.kernels.graphs import Nodes, link, room_for, scales_of, walk
from index.kernels.library import address, require
from index.kernels.ranking import FILE_FIELDS, Candidates, best, estimates, finish, highest, vector_scores

__all__ = [
    "BLOCK",
    "Candidates",
    "FILE_FIELDS",
    "Nodes",
    "address",
    "best",
    "estimates",
    "finish",
    "highest",
    "link",
    "nearest",
    "nibble_products",
    "plane_products",
    "require",
    "room_for",
    "scales_of",
    "scan",
    "to_nibbles",
    "vector_scores",
    "walk",
]
