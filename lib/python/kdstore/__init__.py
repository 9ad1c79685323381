"""kdstore: kd's stores of teacher outputs, read and written from Python.

    import kdstore
    s = kdstore.Store("mnist.kd")                     # opened and checked
    s.read("big/logits", 0)                           # one column of one chunk, as an array

    with kdstore.extend("mnist.kd", "big", [kdstore.Column("big/logits", "logits", shape=(10,))],
                        teacher={"fingerprint": "..."}, resume=True) as w:
        for chunk in w.todo():                        # what is not there yet
            w.append({"big/logits": teacher(s.read("image", chunk))})

The guide is docs/python.md in kd's sources, every byte is in docs/store-format.md. Reading order of the package:
errors, text (JSON), xxh3, columns, marks, records, pages, manifest, store; then values, writer, seal; codecs; torch.
"""
from .codecs import Sparse, learn
from .columns import Column
from .errors import Damaged, Error, Exists, Full, Limit, Mismatch, NotFound, Numeric, Unsupported, Usage
from .manifest import Chunk
from .store import Ragged, Store
from .values import bf16_to_f32, row_ids, to_bf16
from .writer import Writer, create, extend

__version__ = "0.1.0"
__all__ = ["Chunk", "Column", "Damaged", "Error", "Exists", "Full", "Limit", "Mismatch", "NotFound", "Numeric", "Ragged",
           "Sparse", "Store", "Unsupported", "Usage", "Writer", "bf16_to_f32", "create", "extend", "learn", "row_ids",
           "to_bf16"]
