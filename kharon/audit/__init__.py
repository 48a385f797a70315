"""Read a queue's log without opening the queue: no Trio, no lock.

It may be read while an application writes it. Nothing is written except, by `history`, the index beside sealed
segments, which can be made again.

This package imports nothing, so that a module of it (`safe`, say) costs no more than itself. The public names are
imported from the modules by `kharon`.
"""
