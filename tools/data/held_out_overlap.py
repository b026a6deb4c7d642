"""Finds held-out documents whose text also stands in the training documents.

Shingles of a document are its windows of SHINGLE_BYTES bytes, one starting at each byte, with white
space collapsed first. One shingle in SAMPLED is kept, chosen by its hash alone, so that the same
passage is kept wherever it stands (Broder 1997, mod-m sketch). A held-out document is a
near-duplicate when at least NEAR_DUPLICATE of its kept shingles occur somewhere in the training
documents. This counts text copied from several documents too, which pairwise MinHash would miss.
"""

import numpy as np

SHINGLE_BYTES = 64  # a power of two: hashes are built by doubling
SAMPLED = 8
NEAR_DUPLICATE = 0.5
BLOCK_BYTES = 1 << 20  # text hashed at once; hashes take 8 bytes per byte of text


def shingles_of(text):
    """The sorted unique kept shingle hashes of a text: uint64 [n]; empty for very short texts."""
    data = np.frombuffer(" ".join(text.split()).encode("utf-8"), dtype=np.uint8)
    kept = [
        _kept_hashes(data[start : start + BLOCK_BYTES + SHINGLE_BYTES - 1])
        for start in range(0, len(data) - SHINGLE_BYTES + 1, BLOCK_BYTES)
    ]
    return np.unique(np.concatenate(kept)) if kept else np.empty(0, np.uint64)


def _kept_hashes(data):
    hashes = data.astype(np.uint64)
    base, width = np.uint64(0x9E3779B97F4A7C15), 1
    while (
        width < SHINGLE_BYTES
    ):  # h[i] covers bytes i .. i + width - 1: h = sum of byte * base^position, mod 2^64
        hashes = hashes[:-width] + base * hashes[width:]
        base, width = np.uint64(int(base) ** 2 % 2**64), 2 * width
    hashes = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    return hashes[hashes % np.uint64(SAMPLED) == 0]


class HeldOutIndex:
    """The shingles of the held-out documents; training documents mark those that they share."""

    def __init__(self, held_out_shingles):
        """held_out_shingles: for each held-out document the result of shingles_of."""
        self._documents = held_out_shingles
        everything = (
            np.concatenate(held_out_shingles) if held_out_shingles else np.empty(0, np.uint64)
        )
        self._known = np.unique(everything)
        self._in_train = np.zeros(len(self._known), dtype=bool)

    def mark_train(self, text):
        """Marks the shingles that a training document shares with held-out ones."""
        if len(self._known) == 0:
            return
        shingles = shingles_of(text)
        places = np.minimum(np.searchsorted(self._known, shingles), len(self._known) - 1)
        self._in_train[places[self._known[places] == shingles]] = True

    def near_duplicates(self):
        """A bool per held-out document: true where it is a near-duplicate of the marked documents."""
        return [
            len(shingles) > 0 and self._share_in_train(shingles) >= NEAR_DUPLICATE
            for shingles in self._documents
        ]

    def _share_in_train(self, shingles):
        return self._in_train[np.searchsorted(self._known, shingles)].mean()
