"""The files ring: records to bytes to disk and back. Synchronous, and without Trio.

`record` is the line and the hash chain; `protocol` the interface between a log and the store; `memory` and `directory`
the two logs of Kharon. `segment` and `scan` read and verify files, `files` is the disk, and `snapshot` a saved fold.
`retention` and `locations` compress, archive and trim finished segments; `repair` is for users. The meaning of the
records is the model's business.
"""
