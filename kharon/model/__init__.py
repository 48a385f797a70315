"""The pure ring: what a ticket is and every rule by which it changes.

Nothing in here reads a clock, draws a random number, touches a file or knows of Trio. Time and chance come in through
a command's `Context` and are written into the event, so that folding the same records gives the same tickets anywhere.
"""
