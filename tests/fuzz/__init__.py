"""A seeded fuzz of every file and text that a user hands over: `python -m tests.fuzz --minutes 5 --seed 0`.

`targets/` holds a module for each kind of input. Its `make(world, folder, rng, number)` spoils one thing of a right
command line and returns a `Case`; numbers below `len(NAMED)` are spoilt by name, the others by chance. `judge` runs it
as `zofo` does, in this process, and says which of three outcomes it has:

clear     refused: exit code 2, a line for each fault that names its place, nothing written
accepted  rightly: the case may be, and what came of it passes the case's own check
fault     anything else: another exit code, "this is a bug", a traceback, a hang, a file left behind, silence
"""
