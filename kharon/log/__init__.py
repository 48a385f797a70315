"""The files ring: records to bytes to disk and back. Synchronous, and without Trio.

`record` is the line and the hash chain, `protocol` what a log must do for the store, `memory` and `directory` the two
logs that come with Kharon, `segment` how their files are read, `files` the disk, `snapshot` a saved fold. `retention`
and `moves` compress, archive and trim what is finished; `repair` is for the user. What the records mean is the model's
business.
"""
