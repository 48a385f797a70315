"""Planted bugs: what a careless engineer would have written, each caught by the tests that a reader would expect.

    python -m tests.mutants            from the root of the project; --list, -k NAME, --jobs N

A mutant is one replacement in one function of Kharon, which it names. For each, a copy of the project gets that
replacement, the tests that the mutant names are run in it, and one of them must fail. A mutant that nothing catches
shows that a test is missing; a mutant that does not apply any more, since its function has changed or has another name,
is an error and has to be planted anew.

`mutant` says what one is and plants it, `running` runs the tests, `__main__` is the program. The mutants themselves are
in one module for each part of Kharon, and `catalogue` lists those modules: a part that is new to Kharon gets a module
of its own, and a line there. `places` names the files. They are chosen by hand, for promises that matter; nothing here
makes mutants by rote.
"""
